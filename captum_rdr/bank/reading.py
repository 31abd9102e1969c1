"""What layers give for inputs, as their banks take it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_whole
from captum_rdr.bank import bits
from captum_rdr.bank.bank import ConfigurationBank
from captum_rdr.model.inputs import BATCH_SIZE, ForwardArguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import binarize, check_shape, sketch, storable


def read_states(
    reader: LayerReader,
    banks: Sequence[ConfigurationBank],
    arguments: ForwardArguments,
    *,
    with_features: bool | None = None,
    fires_once: bool,
    internal_batch_size: int | None,
    show_progress: bool,
) -> list[tuple[Tensor, ...]]:
    """Run the model on inputs, and keep what is asked of their states.

    Args:
        reader: reads the layers.
        banks: one for each layer, with its thresholds.
        arguments: the inputs.
        with_features: whether queries need the activations; None for states alone.
        fires_once: whether that is known of the layers; only a pass that runs to its
            end shows that one fires again.
        internal_batch_size: inputs that the model sees at a time, 64 if None.
        show_progress: draw a progress bar.

    Returns:
        for each layer packed states ``(B, ceil(D / 8))``, for queries also sketches, and
        maybe features ``(B, D)``.
    """
    given = BATCH_SIZE if internal_batch_size is None else internal_batch_size
    size = check_whole("internal_batch_size", given)

    def keep(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        bank, name = banks[index], reader.names[index]
        check_shape(activations, bank.layer_shape, name)
        kept = [bits.pack(binarize(activations, bank.threshold))]
        if with_features is not None:
            kept.append(sketch(activations.flatten(1)))
        if with_features:
            kept.append(storable(activations, f"layer {name!r}"))
        return tuple(kept)

    parts = []
    split, to_input = arguments.split(size), banks[0].attribute_to_layer_input
    batches = tqdm(split, "Reading", unit="batch", disable=not show_progress)
    with reader.reading(keep, to_input) as read:
        for number, part in enumerate(batches):
            parts.append(read(part, "inputs", fires_once or number > 0))
    return [
        tuple(torch.cat(column) for column in zip(*layer, strict=True))
        for layer in zip(*parts, strict=True)
    ]
