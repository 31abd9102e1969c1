"""What each command does, and returns for printing."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from captum_rdr._summary import of_bank
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.cli import listing
from captum_rdr.cli.images import ImageBatches, Images, as_shown, as_tensor, read_images
from captum_rdr.cli.sources import load_setup
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.zoo import Setup

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
    check_output(folder, is_folder=True)
    setup, images = _loaded(options, options.threshold)
    listed = listing.begin(folder, images, resume=options.resume)
    batches = ImageBatches(
        images, options.batch_size, options.workers, options.skip_damaged
    )
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
    if options.save is not None:
        check_output(options.save, is_folder=True)
    images, _, rdr = _fitted(options)
    kept, _, regions = _found(rdr, images, options)
    paths = [options.images[number] for number in kept]
    named = list(zip(paths, regions, strict=True))
    data = [_as_data(path, region, images) for path, region in named]
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        files = [options.save / name for name in region_files(paths)]
        for file, region, one in zip(files, regions, data, strict=True):
            region.save(file)
            one["region"] = str(file)
    text = "\n".join(_as_text(path, region, images) for path, region in named)
    return Answer(text, data, _skipped(options, kept))


def report(options: argparse.Namespace) -> Answer:
    """Write a page that shows the region of each image."""
    from captum_rdr.report import write_report  # it draws matplotlib in
    from captum_rdr.visualization import Reference

    check_output(options.output, is_folder=False)
    images, setup, rdr = _fitted(options)
    kept, inputs, regions = _found(rdr, images, options)
    reference = Reference(
        images,
        images.targets,
        class_names=images.classes or None,
        to_image=lambda one: as_shown(one, images.transform),
    )
    write_report(
        options.output,
        rdr,
        inputs,
        reference,
        regions=regions,
        title=f"{setup.name}, layer {setup.layers[0].name}",
        show_progress=not options.quiet,
    )
    written = str(options.output)
    skipped = _skipped(options, kept)
    return Answer(f"written to {written}", {"report": written}, skipped)


def region_files(paths: Sequence[Path]) -> list[str]:
    """A file name for the region of each image, no two the same on any system.

    >>> region_files([Path("a/1.png"), Path("b/1.png"), Path("b/1.PNG")])
    ['1.png.region', '1.png-2.region', '1.PNG-3.region']
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = os.fsencode(path.name)[:200].decode(errors="ignore")
        name, count = f"{stem}.region", 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}.region"
        taken.add(name.casefold())
        names.append(name)
    return names


def check_output(path: Path, *, is_folder: bool) -> None:
    """Refuse a file or folder that cannot be written, before the work.

    Raises:
        OSError: the system does not let it be.
        ValueError: it is a folder where a file is wanted, or the other way round; or no
            folder holds the file.
    """
    if not is_folder and path.is_dir():
        raise ValueError(f"{os.fspath(path)!r} is a folder; give a file")
    there = path if is_folder else path.parent
    while is_folder and not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(
            f"{os.fspath(there)!r} is no folder; give one, or make it first"
        )
    with tempfile.TemporaryFile(dir=there):
        pass


def inspect(options: argparse.Namespace) -> Answer:
    """Describe a bank."""
    data = of_bank(ConfigurationBank.load(options.bank))
    return Answer("\n".join(f"{name}: {value}" for name, value in data.items()), data)


def _loaded(options: argparse.Namespace, threshold: Any) -> tuple[Setup, Images]:
    """The model, and the reference images as it takes them."""
    images = Images(options.data)
    choices = (options.model, options.weights, options.layer, options.pool, threshold)
    setup = load_setup(*choices, images, options.skip_damaged)
    images.transform = setup.transforms or as_tensor
    return setup, images


def _fitted(
    options: argparse.Namespace,
) -> tuple[Images, Setup, RelaxedDecisionRegion]:
    """The reference images, the model, and the attribution with the stored bank."""
    bank = ConfigurationBank.load(options.bank)
    setup, images = _loaded(options, 0.0)  # the bank has its own thresholds
    listing.check(Path(options.bank), images, len(bank))
    rdr = RelaxedDecisionRegion(
        setup.model, setup.rdr.layer, pool=setup.pools[0], bank=bank
    )
    return images, setup, rdr


def _found(
    rdr: RelaxedDecisionRegion, images: Images, options: argparse.Namespace
) -> tuple[list[int], Tensor, list[Region]]:
    """Which images are explained, as the model's inputs, and their regions, each tested."""
    kept, inputs = read_images(options.images, images, options.skip_damaged)
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
    show = not options.quiet
    return kept, inputs, significance(regions, rdr.bank, show_progress=show)


def _skipped(options: argparse.Namespace, kept: Sequence[int]) -> list[str]:
    return [
        str(path) for number, path in enumerate(options.images) if number not in kept
    ]


def _as_text(path: Path, region: Region, images: Images) -> str:
    named = region.named()
    numbers, states = region.neurons[named].tolist(), region.states[named].tolist()
    neurons = " ".join(
        f"{neuron}{'+' if state else '-'}"
        for neuron, state in zip(numbers, states, strict=True)
    )
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
