"""Print the table of `docs/models.md`: each torchvision model's recommended layer.

Shapes are those at the resolution of the default weights. The cost is the share of the
forward pass's floating-point operations (as ``torch.utils.flop_counter`` counts them:
multiplications and additions of convolutions, linear layers and attention) that ``fit``
spends up to the layer, where it leaves the pass. All but the detection models are on
the meta device, so nothing is computed; of a detection model's layers only the choice
is shown, since its operations depend on the boxes that it finds.
"""

import argparse
from typing import Any

import torch
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import list_models

from captum_rdr import zoo
from captum_rdr.model.reader import LayerReader
from captum_rdr.zoo.table import chosen
from captum_rdr.zoo.torchvision_models import (
    build_untrained,
    example_inputs,
    is_detection,
)
from captum_rdr.zoo.tracing import example_arguments


def operations(model: Module, layer: Module, inputs: Any, *, whole: bool) -> int:
    """Floating-point operations of a pass, to its end or to a layer."""
    arguments = example_arguments(model, inputs)
    nothing = torch.zeros(arguments.batch_size, 1)
    reader = LayerReader(model, [layer], None, [lambda _: nothing], None)
    with (
        reader.reading(lambda _, output: (output,)) as read,
        FlopCounterMode(display=False) as counter,
    ):
        read(arguments, "an example", leave_early=not whole)
    return int(counter.get_total_flops())


def row(name: str) -> str:
    """One line of the table, in Markdown."""
    model, inputs = build_untrained(name), example_inputs(name)
    info = chosen(zoo.layers(model, inputs), None)
    layer = model.get_submodule(info.name)
    cost = "-"
    if not is_detection(name):
        full = operations(model, layer, inputs, whole=True)
        cost = f"{operations(model, layer, inputs, whole=False) / full:.0%}"
    shape = " x ".join(map(str, info.shape or ()))
    neurons = f"{info.n_neurons:,}"
    if info.has_tokens and info.shape is not None:
        neurons += f"; of one token {info.shape[-1]:,}"
    return (
        f"| {name} | `{info.name}` | {info.reason.split(':')[0]} | {shape} | "
        f"{neurons} | {cost} |"
    )


def main() -> None:
    """Print the table for the names given, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list_models())
    names: list[str] = parser.parse_args().names
    print("| model | layer | why | shape | neurons | cost |")
    print("|---|---|---|---|---|---|")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
