"""Checks of the arguments that a user passes."""

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.bank import ConfigurationBank
from captum_rdr.files import PathLike
from captum_rdr.region import Region


def check_layer(forward_func: Callable[..., Any], layer: Module | list[Module]) -> None:
    """Refuse what cannot run or be recorded.

    Raises:
        TypeError: ``forward_func`` is not callable, or ``layer`` neither a module nor a
            list of modules.
    """
    if not callable(forward_func):
        raise TypeError(
            f"forward_func is a {type(forward_func).__name__}, which cannot be called; "
            "pass the model or a function around it"
        )
    layers = layer if isinstance(layer, list) else [layer]
    if not layers or not all(isinstance(one, Module) for one in layers):
        raise TypeError(
            f"layer={layer!r} is neither a module nor a list of modules; pass e.g. "
            "model.layer4"
        )


def checked_call_index(call_index: int | None) -> int | None:
    """A call's number as a plain int.

    Raises:
        TypeError: it is no whole number.
    """
    if call_index is None:
        return None
    if isinstance(call_index, bool) or not hasattr(call_index, "__index__"):
        raise TypeError(
            f"call_index={call_index!r} is a {type(call_index).__name__}; use a whole "
            "number"
        )
    return operator.index(call_index)


def checked_pools(pool: Any, count: int) -> list[Any]:
    """One pool a layer.

    Raises:
        TypeError: one is neither callable nor None.
        ValueError: a list has another length than the layers.
    """
    pools = for_each(pool, count, "pool")
    for one in pools:
        if one is not None and not callable(one):
            raise TypeError(
                f"pool={one!r} is a {type(one).__name__}; give a callable, e.g. "
                "captum_rdr.pooling.spatial_mean"
            )
    return pools


def checked_folders(
    out: PathLike | list[PathLike] | None, layer: Module | list[Module], resume: bool
) -> list[Path | None]:
    """One folder a layer, or None for banks in memory.

    Raises:
        TypeError: a list does not meet a list.
        ValueError: the lists differ in length, two folders are one, one is a file, or
            there is nothing to resume.
    """
    count = len(layer) if isinstance(layer, list) else 1
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the folder of the unfinished bank")
        return [None] * count
    if isinstance(layer, list) != isinstance(out, list):
        raise TypeError(
            f"out={out!r} does not fit layer; give a folder for a module, a list of "
            "folders for a list of modules"
        )
    folders = [Path(one) for one in for_each(out, count, "out")]
    if len({folder.resolve() for folder in folders}) < count:
        raise ValueError(f"out={out!r} names one folder twice; give each layer its own")
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out={os.fspath(folder)!r} is a file; give a folder")
    return list(folders)


def checked_regions(region: Region | list[Region], count: int) -> list[Region]:
    """One region a layer.

    Raises:
        TypeError: something is no region.
        ValueError: there are more or fewer than layers.
    """
    regions = region if isinstance(region, list) else [region]
    if not all(isinstance(one, Region) for one in regions):
        raise TypeError(
            f"region is a {type(region).__name__}; give a Region, e.g. the first that "
            "attribute returned"
        )
    if len(regions) != count:
        raise ValueError(
            f"region has {len(regions)} items for {count} layers; give one Region for a "
            "layer, e.g. regions[0], and for a list of layers one each"
        )
    return regions


def for_each(value: Any, count: int, name: str) -> list[Any]:
    """One value a layer: a list as it is, anything else repeated.

    Raises:
        ValueError: the list has another length.

    >>> for_each(0.0, 2, "threshold")
    [0.0, 0.0]
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} has {len(value)} items for {count} layers; give one each"
        )
    return value


def check_banks(
    bank: ConfigurationBank | list[ConfigurationBank], layer: Module | list[Module]
) -> list[ConfigurationBank]:
    """One bank a layer.

    Raises:
        TypeError: something is no bank, or a list does not meet a list.
        ValueError: the lists differ in length.
    """
    several = isinstance(layer, list)
    banks = bank if isinstance(bank, list) else [bank]
    all_banks = all(isinstance(one, ConfigurationBank) for one in banks)
    if several != isinstance(bank, list) or not all_banks:
        raise TypeError(
            f"bank={bank!r} does not fit layer; give a ConfigurationBank for a module, "
            "a list of them for a list of modules"
        )
    return for_each(banks, len(layer) if isinstance(layer, list) else 1, "bank")


def check_thresholds(
    thresholds: Sequence[Tensor | None], banks: Sequence[ConfigurationBank]
) -> None:
    """Refuse thresholds that were given and are not those of the banks.

    Zero, which is the default, and the median, which is not known, go with any bank.

    Raises:
        ValueError: one differs.
    """
    for threshold, bank in zip(thresholds, banks, strict=True):
        if threshold is None or (threshold.dim() == 0 and threshold == 0):
            continue
        flat = threshold.flatten() if threshold.dim() else threshold
        if flat.shape != bank.threshold.shape or not bool(
            (flat == bank.threshold).all()
        ):
            raise ValueError(
                f"threshold={threshold} is not that of {bank!r}; leave threshold out to "
                "use the bank's, or fit again"
            )


def checked_rows(indices: Sequence[int] | Tensor, n_rows: int) -> Tensor:
    """Bank rows as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are out of range or not one-dimensional.

    >>> checked_rows(range(3), 10)
    tensor([0, 1, 2])
    """
    try:
        given = indices if isinstance(indices, Tensor) else list(indices)
        rows = torch.as_tensor(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"indices={indices!r} is no sequence of whole numbers; give bank rows, e.g. "
            "[3, 5] or range(10)"
        ) from error
    if rows.dtype == torch.bool or (rows.is_floating_point() and rows.numel()):
        raise TypeError(
            f"indices has dtype {rows.dtype}; give whole numbers, or for a mask "
            "mask.nonzero().flatten()"
        )
    if rows.dim() != 1:
        raise ValueError(
            f"indices has shape {tuple(rows.shape)}; give bank rows of shape (Q,)"
        )
    if rows.numel() and not 0 <= rows.min() <= rows.max() < n_rows:
        raise ValueError(
            f"indices go from {int(rows.min())} to {int(rows.max())}, but the bank's "
            f"rows from 0 to {n_rows - 1}"
        )
    return rows.to(torch.int64).cpu()
