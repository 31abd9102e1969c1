"""Regions of bank rows, from the bank alone."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import Identity

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region


def recipe(
    bank: ConfigurationBank, n_instances: int, choices: dict[str, Any]
) -> dict[str, Any]:
    """The choices that make regions, and the defaults of those left out.

    The default is a rule that is pure on any bank, see the benchmarks: evidence over all
    neurons, S of 16 by cosine distance where the bank has features.

    Args:
        bank: the bank of the regions.
        n_instances: how many instances there are to find neighbors among.
        choices: as in `captum_rdr.RelaxedDecisionRegion.attribute_members`.

    >>> recipe(ConfigurationBank((64,)), 100, {"n_neighbors": 8})
    {'n_neighbors': 8, 'n_neurons': 64, 'weighting': 'evidence',
     'neighbors': 'configuration'}
    """
    uniform = choices.get("weighting", "evidence") != "evidence"
    return {
        "n_neighbors": min(16, n_instances),
        "n_neurons": min(10, bank.n_neurons) if uniform else bank.n_neurons,
        "weighting": "evidence",
        "neighbors": "configuration" if bank.features is None else "cosine",
        **choices,
    }


def bank_regions(
    bank: ConfigurationBank,
    rows: Sequence[int] | Tensor,
    choices: dict[str, Any],
    *,
    show_progress: bool,
) -> list[Region]:
    """The regions of bank rows, without the model.

    Args:
        bank: the bank.
        rows: bank rows.
        choices: all that `recipe` gives.
        show_progress: draw a progress bar when it takes more than a second.
    """
    model = Identity()  # never run: the bank holds all that regions of its rows need
    explainer = RelaxedDecisionRegion(model, model, bank=bank)
    found: list[Region] = explainer.attribute_members(
        rows, show_progress=show_progress, **choices
    )
    return found


def explainer_of(rdr: RelaxedDecisionRegion, index: int) -> RelaxedDecisionRegion:
    """An explainer of one of the layers, with its bank and its thresholds.

    Args:
        rdr: fitted explainer of one layer or several.
        index: number of the layer.
    """
    reader = rdr.reader
    bank = rdr.bank[index] if isinstance(rdr.bank, list) else rdr.bank
    threshold = bank.threshold
    return RelaxedDecisionRegion(
        reader.forward_func,
        reader.layers[index],
        None if reader.device_ids is None else list(reader.device_ids),
        threshold=threshold.reshape(bank.layer_shape) if threshold.dim() else threshold,
        pool=reader.pools[index],
        bank=bank,
        call_index=reader.call_index,
        force=rdr.force,
    )
