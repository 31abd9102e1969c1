"""What each command does, and returns for printing."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.cli.sources import Images, as_shown, load_setup, open_image
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.zoo import Setup

_SHOWN = 5  # members in a text


class Answer(NamedTuple):
    """What a command found, for people and for programs.

    Attributes:
        text: lines to read.
        data: the same and more, of JSON's types.
    """

    text: str
    data: Any


def fit(options: argparse.Namespace) -> Answer:
    """Index a folder of images and write the bank."""
    setup, images = _loaded(options, options.threshold)
    quiet, keep = options.quiet, options.keep_features
    loader: DataLoader[Any] = DataLoader(
        images, options.batch_size, num_workers=options.workers
    )
    bank = setup.rdr.fit(loader, keep_features=keep, show_progress=not quiet).bank
    bank.save(options.bank)
    (layer,) = setup.layers
    text = f"{bank}\nof layer {layer.name!r}, written to {options.bank}"
    return Answer(text, {"layer": layer.name, **described(bank)})


def explain(options: argparse.Namespace) -> Answer:
    """Find the region of each image."""
    images, _, rdr = _fitted(options)
    _, regions = _found(rdr, images, options)
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        for path, region in zip(options.images, regions, strict=True):
            region.save(options.save / f"{path.name}.region")
    named = list(zip(options.images, regions, strict=True))
    return Answer(
        "\n".join(_as_text(path, region, images) for path, region in named),
        [_as_data(path, region, images) for path, region in named],
    )


def report(options: argparse.Namespace) -> Answer:
    """Write a page that shows the region of each image."""
    from captum_rdr.report import write_report  # it draws matplotlib in
    from captum_rdr.visualization import Reference

    images, setup, rdr = _fitted(options)
    inputs, regions = _found(rdr, images, options)
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
    return Answer(f"written to {written}", {"report": written})


def inspect(options: argparse.Namespace) -> Answer:
    """Describe a bank."""
    data = described(ConfigurationBank.load(options.bank))
    return Answer("\n".join(f"{name}: {value}" for name, value in data.items()), data)


def described(bank: ConfigurationBank) -> dict[str, Any]:
    """What a bank holds.

    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[True, False], [False, False]]))
    >>> described(bank)["active share"], described(bank)["never active neurons"]
    (0.25, 1)
    """
    counts, size = bank.active_counts, len(bank)
    return {
        "instances": size,
        "neurons": bank.n_neurons,
        "layer shape": list(bank.layer_shape),
        "threshold": bank.threshold.item() if bank.threshold.dim() == 0 else "a neuron",
        "of the layer's input": bank.attribute_to_layer_input,
        "features": bank.features is not None,
        "bytes": bank.nbytes,
        "active share": round(float(counts.double().mean()) / max(1, size), 4),
        "never active neurons": int((counts == 0).sum()),
        "always active neurons": int((counts == size).sum()),
        "fingerprint": bank.fingerprint,
    }


def _loaded(options: argparse.Namespace, threshold: Any) -> tuple[Setup, Images]:
    """The model, and the reference images as it takes them."""
    images = Images(options.data)
    (first, _), *_ = images.samples
    setup = load_setup(
        options.model,
        options.weights,
        options.layer,
        options.pool,
        threshold,
        first_image=first,
    )
    images.transform = setup.transforms
    return setup, images


def _fitted(
    options: argparse.Namespace,
) -> tuple[Images, Setup, RelaxedDecisionRegion]:
    """The reference images, the model, and the attribution with the stored bank."""
    bank = ConfigurationBank.load(options.bank)
    setup, images = _loaded(options, 0.0)  # the bank has its own thresholds
    if len(images) != len(bank):
        raise ValueError(
            f"{options.data!r} has {len(images)} images, but the bank has {len(bank)} "
            "instances; give the folder that fit read, or fit again"
        )
    rdr = RelaxedDecisionRegion(
        setup.model, setup.rdr.layer, pool=setup.pools[0], bank=bank
    )
    return images, setup, rdr


def _found(
    rdr: RelaxedDecisionRegion, images: Images, options: argparse.Namespace
) -> tuple[Tensor, list[Region]]:
    """The images to explain as the model's inputs, and their regions, each tested."""
    inputs = torch.stack([images.transform(open_image(one)) for one in options.images])
    _, regions = rdr.attribute(
        inputs,
        options.n_neighbors,
        options.n_neurons,
        tolerance=options.tolerance,
        weighting=options.weighting,
        neighbors=options.neighbors,
    )
    show = not options.quiet
    return inputs, significance(regions, rdr.bank, show_progress=show)


def _as_text(path: Path, region: Region, images: Images) -> str:
    neurons = " ".join(
        f"{neuron}{'+' if state else '-'}"
        for neuron, state in zip(
            region.neurons.tolist(), region.states.tolist(), strict=True
        )
    )
    members = [images.paths[row] for row in region.members[:_SHOWN].tolist()]
    more = len(region.members) - len(members)
    return (
        f"{path}: {region!r}\n  neurons (+ active, - inactive): {neurons}\n"
        f"  members: {' '.join(members)}{f' and {more} more' if more > 0 else ''}"
    )


def _as_data(path: Path, region: Region, images: Images) -> dict[str, Any]:
    return {
        "image": str(path),
        "neurons": region.neurons.tolist(),
        "coordinates": region.unravel(),
        "states": region.states.tolist(),
        "scores": region.scores.tolist(),
        "tolerance": region.tolerance,
        "neighbors": [images.paths[row] for row in region.neighbors.tolist()],
        "members": [images.paths[row] for row in region.members.tolist()],
        "significance": region.significance and asdict(region.significance),
    }
