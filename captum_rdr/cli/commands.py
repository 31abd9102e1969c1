"""What each command does, and returns for printing."""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from captum_rdr import pooling, zoo
from captum_rdr._summary import of_bank
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.cli import listing
from captum_rdr.cli.images import ImageBatches, Images, Transform, as_shown, as_tensor
from captum_rdr.discovery import ErrorGroup
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.metrics._explainers import class_scores
from captum_rdr.model.inputs import input_arguments

_SHOWN = 5  # members in a text


class Answer(NamedTuple):
    """What a command found, for people and for programs.

    Attributes:
        text: lines to read.
        data: the same and more, of JSON's types.
        skipped: damaged files that were left out.
    """

    text: str
    data: Any
    skipped: Sequence[str] = ()


def fit(options: argparse.Namespace) -> Answer:
    """Index a folder of images and write the bank."""
    folder = Path(options.bank)
    check_output(folder)
    images = Images(options.data, skip_damaged=options.skip_damaged)
    setup = load_setup(options, images, options.threshold)
    listed = listing.begin(folder, images, resume=options.resume)
    batches = ImageBatches(images, options.batch_size, options.workers)
    bank = setup.rdr.fit(
        batches,
        keep_features=options.keep_features,
        out=folder,
        resume=options.resume,
        show_progress=not options.quiet,
    ).bank
    if len(batches.rows) != len(bank):
        raise ValueError(
            f"the finished bank {options.bank!r} has {len(bank)} instances, but "
            f"{len(batches.rows)} images can be read; fit without --resume"
        )
    skipped = listing.finish(folder, listed, batches.rows)
    (layer,) = setup.layers
    text = f"{bank}\nof layer {layer.name!r}, written to {options.bank}"
    data = {"layer": layer.name, "skipped": skipped, **of_bank(bank)}
    return Answer(text, data, skipped)


def explain(options: argparse.Namespace) -> Answer:
    """Find the region of each image."""
    images, _, _, kept, _, regions = _explained(options)
    paths = [options.images[number] for number in kept]
    named = list(zip(paths, regions, strict=True))
    data = [_as_data(path, region, images) for path, region in named]
    text = "\n".join(_as_text(path, region, images) for path, region in named)
    return Answer(text, data, _skipped(options, kept))


def report(options: argparse.Namespace) -> Answer:
    """Write a page on the region of each image, or on the errors in a folder of classes."""
    from captum_rdr.report import write_report  # it draws matplotlib in

    _check_page(options.output)
    page, regions, tested = str(options.output), None, None
    if len(options.images) == 1 and options.images[0].is_dir():
        images, setup, rdr = _loaded(options)
        tested, queries, outputs, skipped = _labeled(options, images, setup, rdr)
    else:
        images, setup, rdr, kept, queries, regions = _explained(options)
        outputs, skipped = setup.categories, _skipped(options, kept)
    found = write_report(
        page,
        rdr,
        queries,
        _reference(images, outputs),
        regions=regions,
        query_names=tested.paths if tested else [str(options.images[i]) for i in kept],
        names=images.paths,
        title=_title(setup),
        show_progress=not options.quiet,
    )
    if not tested or not found:
        return Answer(f"written to {page}", {"report": page}, skipped)
    groups = [_group_as_data(one, outputs, tested, images) for one in found[0]]
    data = {"report": page, "inputs": len(tested), "groups": groups}
    return Answer(f"{found[0]}\nwritten to {page}", data, skipped)


def _labeled(
    options: argparse.Namespace,
    images: Images,
    setup: zoo.Setup,
    rdr: RelaxedDecisionRegion,
) -> tuple[Images, Any, Sequence[str], list[str]]:
    """Images in one folder a class, a loader of them with the numbers of the model's
    outputs, these outputs' names, and which images are left out.

    Raises:
        ValueError: it is not known which folder is which output.
    """
    tested = Images(str(options.images[0]), images.transform, options.skip_damaged)
    every = tested.paths
    if tested.skip_damaged:
        tested.only([row for row in range(len(every)) if tested.read_rows([row])[0]])
    _, first = tested.read_rows([0])
    count = class_scores(rdr, [input_arguments(first, None)]).shape[1]
    own = {*tested.classes}
    known = [setup.categories, images.classes, tested.classes]
    fitting = [one for one in known if own and own <= {*one} and len(one) == count]
    if not fitting:
        raise ValueError(
            f"{tested.folder!r} has {len(own)} folders of images, and the model {count} "
            "outputs; give one folder a class, named as in the model's weights or the "
            "reference folder, or as many folders as outputs in their order"
        )
    names = fitting[0]
    targets = [names.index(tested.classes[one]) for one in tested.targets]

    def read(rows: list[int]) -> tuple[Tensor, list[int]]:
        return tested.read_rows(rows)[1], [targets[row] for row in rows]

    rows: Any = range(len(targets))  # read where they are collated
    skipped = [path for path in every if path not in {*tested.paths}]
    return tested, DataLoader(rows, 64, collate_fn=read), names, skipped


def _group_as_data(
    group: ErrorGroup, names: Sequence[str], tested: Images, images: Images
) -> dict[str, Any]:
    return {
        "errors": [tested.paths[row] for row in group.rows.tolist()],
        "classes": {names[one]: count for one, count in group.targets.items()},
        "predictions": {names[one]: count for one, count in group.predictions.items()},
        **vars(group.errors),
        "found_again": group.found_again,
        "reference": [images.paths[row] for row in group.reference.tolist()],
        "odd": [images.paths[row] for row in group.odd.tolist()],
    }


def atlas(options: argparse.Namespace) -> Answer:
    """Find the concepts of the layer, and write a page of them."""
    from captum_rdr import discovery
    from captum_rdr.report import write_atlas

    _check_page(options.output)
    images, setup, rdr = _loaded(options)
    reference = _reference(images, setup.categories)
    quietly: Any = {"show_progress": not options.quiet}
    labels, count = reference.labels, options.n_concepts
    found = discovery.atlas(rdr, None, count, labels=labels, **quietly)
    names, title = images.paths, _title(setup)
    write_atlas(options.output, found, reference, names=names, title=title, **quietly)
    data = {"atlas": str(options.output), "concepts": len(found)}
    return Answer(f"{found}\nwritten to {options.output}", data)


def _check_page(output: Path) -> None:
    if output.is_dir():
        raise ValueError(f"{os.fspath(output)!r} is a folder; give a file")
    check_output(output.parent)


def _title(setup: zoo.Setup) -> str:
    return f"{setup.name}, layer {setup.layers[0].name}"


def _reference(images: Images, names: Sequence[str]) -> Any:
    """What the rows of a bank are; ``names`` are those of the model's outputs."""
    from captum_rdr.visualization import Reference

    return Reference(
        images,
        [images.classes[one] for one in images.targets] if images.classes else None,
        class_names=names or images.classes or None,
        to_image=lambda one: as_shown(one, images.transform),
    )


def check_output(folder: Path) -> None:
    """Make a folder, where there is none, that files can be written to.

    Raises:
        OSError: the system does not let it be.
        ValueError: it is a file, or lies in one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{os.fspath(folder)!r} is no folder; give one") from error
    with tempfile.TemporaryFile(dir=folder):
        pass


def inspect(options: argparse.Namespace) -> Answer:
    """Describe a bank."""
    data = of_bank(ConfigurationBank.load(options.bank))
    return Answer("\n".join(f"{name}: {value}" for name, value in data.items()), data)


def _loaded(
    options: argparse.Namespace,
) -> tuple[Images, zoo.Setup, RelaxedDecisionRegion]:
    """The reference images, the model, and the attribution with the stored bank."""
    bank = ConfigurationBank.load(options.bank)
    images = Images(options.data, skip_damaged=options.skip_damaged)
    setup = load_setup(options, images, 0.0)  # the bank has its own thresholds
    listing.check(Path(options.bank), images, len(bank))
    layer, pool = setup.rdr.layer, setup.pools[0]
    rdr = RelaxedDecisionRegion(setup.model, layer, pool=pool, bank=bank)
    return images, setup, rdr


def _explained(
    options: argparse.Namespace,
) -> tuple[Images, zoo.Setup, RelaxedDecisionRegion, list[int], Tensor, list[Region]]:
    """The reference images, the model, the attribution with the stored bank, which images
    are explained, what the model takes for them, and their regions, each tested.
    """
    images, setup, rdr = _loaded(options)
    kept, inputs = images.read(options.images)
    if not kept:
        raise ValueError(f"none of the {len(options.images)} images can be read")
    _, regions = rdr.attribute(
        inputs,
        options.n_neighbors,
        options.n_neurons,
        tolerance=options.tolerance,
        weighting=options.weighting,
        neighbors=options.neighbors,
    )
    tested = significance(regions, rdr.bank, show_progress=not options.quiet)
    return images, setup, rdr, kept, inputs, tested


def _skipped(options: argparse.Namespace, kept: Sequence[int]) -> list[str]:
    return [
        str(path) for number, path in enumerate(options.images) if number not in kept
    ]


def _as_text(path: Path, region: Region, images: Images) -> str:
    named = region.named()
    pairs = zip(region.neurons[named].tolist(), region.states[named], strict=True)
    neurons = " ".join(f"{neuron}{'+' if state else '-'}" for neuron, state in pairs)
    members = [images.paths[row] for row in region.members[:_SHOWN].tolist()]
    more = len(region.members) - len(members)
    return (
        f"{path}: {region!r}\n  neurons (+ active, - inactive): {neurons}\n"
        f"  members: {' '.join(members)}{f' and {more} more' if more > 0 else ''}"
    )


def _as_data(path: Path, region: Region, images: Images) -> dict[str, Any]:
    named = {
        name: [images.paths[row] for row in getattr(region, name).tolist()]
        for name in ("neighbors", "members")
    }
    return {"image": str(path), **region.to_dict(), **named}


def load_setup(
    options: argparse.Namespace, images: Images, threshold: float | str
) -> zoo.Setup:
    """A model with its layer; ``images`` get the transform that it takes.

    Args:
        options: of the command line. ``model`` is ``"torchvision:NAME"``, or
            ``"package.module:factory"`` for a function without arguments that returns a
            module, or a module and the transform from a PIL image to its input.
        images: the first that can be read tells the size of the input of a model that
            is not torchvision's.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.

    Raises:
        ImportError: the module cannot be imported.
        TypeError: the factory returns something else.
        ValueError: there is no such model or layer, or no image can be read.
    """
    source, _, name = options.model.partition(":")
    if not source or not name:
        raise ValueError(
            f"model={options.model!r} has no known form; write torchvision:resnet50 or "
            "package.module:factory"
        )
    choices: dict[str, Any] = {
        "layer": options.layer,
        "pool": "auto" if options.pool is None else getattr(pooling, options.pool),
        "threshold": threshold,
    }
    if source == "torchvision":
        weights = None if options.weights == "none" else options.weights
        setup = zoo.explain(name, weights, **choices)
        images.transform = setup.transforms or as_tensor
        return setup
    module, images.transform = _made(_imported(source, name), options.model)
    first = next(iter(ImageBatches(images, 1)), None)
    if first is None:
        raise ValueError(
            f"none of the {len(images)} images in {images.folder!r} can be read"
        )
    return zoo.explain(module, inputs=tuple(first.shape[1:]), **choices)


def _imported(module: str, name: str) -> Any:
    """An object of a module that may lie in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ValueError(
            f"module {module!r} has no {name!r}; name a function that returns the model"
        ) from error


def _made(factory: Callable[[], Any], model: str) -> tuple[Module, Transform]:
    made = factory()
    module, transform = made if isinstance(made, tuple) else (made, as_tensor)
    if not isinstance(module, Module) or not callable(transform):
        raise TypeError(
            f"model={model!r} gave a {type(made).__name__}; return a torch.nn.Module, or "
            "a tuple of one and a transform"
        )
    return module.eval(), transform
