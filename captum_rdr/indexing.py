"""Go through the reference data: from batches to banks."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank
from captum_rdr.batches import Batches, batch_arguments
from captum_rdr.dataprint import DataPrint
from captum_rdr.files import only_writer
from captum_rdr.layerindex import LayerIndex
from captum_rdr.reading import LayerReader


def index_data(
    reader: LayerReader,
    data: Any,
    layers: Sequence[LayerIndex],
    *,
    additional_forward_args: Any,
    attribute_to_layer_input: bool,
    resume: bool,
    show_progress: bool,
) -> list[ConfigurationBank]:
    """Go through the data and fill each layer's bank.

    Where a layer's threshold is its median and its activations do not fit
    `captum_rdr.neurons.MEDIAN_BYTES`, the data is gone through a second time.

    Args:
        reader: runs the forward passes.
        data: a DataLoader, Dataset or tensor.
        layers: one for each of the reader's layers.
        additional_forward_args: passed behind every batch's inputs.
        attribute_to_layer_input: read what the layers take in.
        resume: go on where an earlier run into the layers' folders stopped.
        show_progress: draw a progress bar.

    Raises:
        ValueError: the data is empty, shuffled, gives no usable activations, or is not
            that of the run to resume.
        RuntimeError: another process writes to a folder.
    """
    batches = Batches(data)
    data_print = DataPrint(batches.length)
    with ExitStack() as stack:
        for layer in layers:
            layer.reserve, layer.data = batches.n_instances, data_print
            if layer.out is not None:
                layer.out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(only_writer(layer.out))
            stack.callback(layer.close)
            if resume:
                layer.resume()

        def go_through(part: Sequence[int]) -> None:
            _one_pass(
                reader.only(*part),
                batches,
                [layers[index] for index in part],
                additional_forward_args,
                attribute_to_layer_input,
                show_progress,
            )

        go_through(range(len(layers)))
        again = [
            index
            for index, layer in enumerate(layers)
            if layer.threshold is None and not layer.settle_median()
        ]
        if again and not batches.can_repeat:
            raise ValueError(
                "data can be gone through only once, but a sampled median needs a second "
                "pass; pass a DataLoader, or a threshold other than 'median'"
            )
        if again:
            go_through(again)
        return [layer.finish() for layer in layers]


def _one_pass(
    reader: LayerReader,
    batches: Batches,
    layers: Sequence[LayerIndex],
    additional_forward_args: Any,
    attribute_to_layer_input: bool,
    show_progress: bool,
) -> None:
    n_instances, has_run = 0, False
    n_skipped = min(layer.n_finished for layer in layers)
    data = layers[0].data
    with reader.reading(
        lambda index, activations: layers[index].keep(activations),
        attribute_to_layer_input=attribute_to_layer_input,
    ) as read:
        progress = tqdm(
            batches,
            total=len(batches) or None,
            desc="Indexing",
            unit="batch",
            disable=not show_progress,
        )
        for number, batch in enumerate(progress):
            arguments = batch_arguments(batch, additional_forward_args)
            first, n_instances = n_instances, n_instances + arguments.batch_size
            data.add(arguments)
            if data.is_complete:
                _check_data(layers)
            if n_instances <= n_skipped:
                continue
            # The first pass runs to its end, which shows a layer that fires again.
            kept = read(arguments, f"batch {number}", leave_early=has_run)
            has_run = True
            for layer, tensors in zip(layers, kept, strict=True):
                layer.add(tensors, first)
    if n_instances == 0:
        raise ValueError("data is empty; give one instance or more")
    _check_data(layers)
    if n_instances < n_skipped:
        raise ValueError(
            f"data has {n_instances} instances, but an earlier run has indexed "
            f"{n_skipped}; give the same data, or fit without resume to begin anew"
        )


def _check_data(layers: Sequence[LayerIndex]) -> None:
    for layer in layers:
        layer.check_data()
