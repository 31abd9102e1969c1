"""Objects in a few named values, and how notebooks show these."""

from collections.abc import Mapping
from html import escape
from typing import Any


def as_html(title: str, fields: Mapping[str, Any]) -> str:
    """Named values as a table.

    >>> as_html("A <bank>", {"rows": 2})
    '<table><caption>A &lt;bank&gt;</caption><tr><th>rows</th><td>2</td></tr></table>'
    """
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in fields.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def of_bank(bank: Any) -> dict[str, Any]:
    """What a `captum_rdr.ConfigurationBank` holds, as values of JSON's types.

    >>> import torch
    >>> from captum_rdr import ConfigurationBank
    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[True, False], [False, False]]))
    >>> of_bank(bank)["active share"], of_bank(bank)["never active neurons"]
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


def of_explainer(reader: Any, thresholds: Any, banks: Any) -> dict[str, str]:
    """What a `captum_rdr.RelaxedDecisionRegion` explains, and how."""
    told = {"model": type(reader.model or reader.forward_func).__name__}
    for index, name in enumerate(reader.names):
        bank, pool = banks[index] if banks else None, reader.pools[index]
        cut = thresholds[index] if bank is None else bank.threshold
        threshold = "median" if cut is None else "a number a neuron"
        if cut is not None and not cut.dim():
            threshold = f"{cut.item():g}"
        told[f"layer {name}"] = (
            f"threshold {threshold}, pool {getattr(pool, '__name__', pool)}, "
            f"{'no bank yet' if bank is None else bank}"
        )
    return told
