"""From a layer's output to the states of its neurons."""

import hashlib
import heapq
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

MEDIAN_BYTES = 1 << 30
"""Floats that the per-neuron median may keep in memory, in bytes.

A reference set whose activations fit gets its exact median. For a larger one the
median is that of a uniform sample of this size, see `sampled_median_error`.
"""


FLOATS = (torch.float16, torch.float32, torch.float64)
"""The dtypes of thresholds and features."""

_MEDIAN_BLOCK = 1 << 22  # activations sorted at a time


def check_shape(activations: Tensor, shape: torch.Size, name: str) -> None:
    """Refuse activations of another shape an instance than the one that was fitted.

    Raises:
        ValueError: the shape differs.
    """
    if activations.shape[1:] != shape:
        raise ValueError(
            f"layer {name!r} gave shape {tuple(activations.shape[1:])} an instance, but "
            f"the bank holds {tuple(shape)}; give inputs of the size that was fitted"
        )


def checked_activations(output: Any, batch_size: int | None, where: str) -> Tensor:
    """A layer's output, of which states can be read.

    Args:
        output: what the layer gave, or its pool.
        batch_size: the number of instances that went in; None where it is unknown.
        where: names layer and batch in errors.

    Returns:
        real tensor of shape ``(batch_size, D1, ..., Dm)``.

    Raises:
        TypeError: the output is no real, dense tensor.
        ValueError: its first dimension is not the batch, or it holds no values or NaN.

    >>> checked_activations(torch.tensor([1.0]), batch_size=1, where="fc")
    tensor([[1.]])
    """
    is_tensor = isinstance(output, Tensor)
    odd = is_tensor and (output.is_quantized or output.is_complex() or output.is_nested)
    if not is_tensor or odd or output.layout != torch.strided:
        kind = "nested" if getattr(output, "is_nested", False) else ""
        what = f"{kind or output.layout} tensor of {output.dtype}" if is_tensor else ""
        raise TypeError(
            f"{where} gave a {what or type(output).__name__}; choose or make a dense, "
            "real tensor with pool, e.g. pool=lambda output: output[0] or "
            "output.dequantize() or torch.nested.to_padded_tensor(output, 0)"
        )
    value: Tensor = output[:, None] if output.dim() == 1 else output
    if value.dim() == 0 or batch_size not in (None, value.shape[0]):
        raise ValueError(
            f"{where} gave shape {tuple(value.shape)} for {batch_size} inputs; move the "
            "batch to the front with pool, e.g. pool=lambda output: output.transpose(0, 1)"
        )
    if bool(value.isnan().any()):
        raise ValueError(
            f"{where} gave NaN, which has no state; find its source in the model or "
            "the data, or map it with pool=torch.nan_to_num"
        )
    return value


def binarize(activations: Tensor, threshold: Tensor) -> Tensor:
    """States of neurons: whether each activation is above its threshold.

    Section 3 of Chang, Kwon and Choi (AAAI 2024), with a threshold other than zero
    allowed. A single threshold compares as ``activations > number`` does in PyTorch;
    thresholds per neuron compare in the wider of the two dtypes, so that none is
    rounded to half precision.

    Args:
        activations: shape ``(B, D1, ..., Dm)``.
        threshold: without dimensions, or one value a neuron.

    Returns:
        bool tensor of shape ``(B, D1 * ... * Dm)``.

    >>> binarize(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor(0.0))
    tensor([[False, False,  True]])
    """
    if threshold.dim() == 0:
        return (activations > threshold.item()).flatten(1)
    return activations.flatten(1) > threshold.flatten().to(activations.device)


def feature_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which activations of ``dtype`` are kept as features.

    It is their own, or float32 for those that NumPy lacks and for whole numbers.

    >>> feature_dtype(torch.bfloat16), feature_dtype(torch.float16)
    (torch.float32, torch.float16)
    """
    return dtype if dtype in FLOATS else torch.float32


def storable(activations: Tensor, where: str) -> Tensor:
    """A flat copy ``(B, D)`` of activations in the dtype in which features are kept.

    Raises:
        ValueError: an activation is infinite, which has no distance; ``where`` names the
            layer in the message.

    >>> storable(torch.ones(1, 2, 2, dtype=torch.bfloat16), "layer").dtype
    torch.float32
    """
    if not bool(activations.isfinite().all()):
        raise ValueError(
            f"{where} gave infinity, which has no cosine or Euclidean distance; bound it "
            'with pool, e.g. pool=torch.nan_to_num, or use neighbors="configuration"'
        )
    return activations.flatten(1).to(feature_dtype(activations.dtype), copy=True)


SKETCHED = 5
"""Numbers in a sketch of an instance."""


def sketch(activations: Tensor) -> Tensor:
    """Five numbers that tell an instance from all others, whatever rounding does.

    Args:
        activations: shape ``(B, D)``.

    Returns:
        shape ``(B, 5)`` on the same device: four random projections and the length, in
        float32, or in the dtype of half-precision activations.

    >>> sketch(torch.tensor([[3.0, 4.0]]))[:, -1]
    tensor([5.])
    """
    # In double precision, so that no batch size shows in what is left of it.
    wide = activations.double()
    directions = _directions(activations.shape[1], activations.device)
    numbers = torch.cat([wide @ directions, wide.norm(dim=1, keepdim=True)], 1)
    return numbers.to(activations.dtype if _is_half(activations) else torch.float32)


def same_instance(sketches: Tensor, own: Tensor) -> Tensor:
    """Which sketches, float32 ``(N, 5)``, are of the instance of one, ``(5,)``; bool.

    Another batch size rounds activations differently, by less than a thousandth of
    their length, or a thirtieth in half precision.

    >>> own = torch.tensor([1.0, 2, 3, 4, 9])
    >>> same_instance(torch.stack([own + 1e-4, own + 1]), own)
    tensor([ True, False])
    """
    bound = (0.03 if _is_half(own) else 1e-3) * own[-1].float().abs()
    away = (sketches - own.to(sketches.device).float()).abs()
    return (away <= bound.to(sketches.device)).all(1)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


# Not functools.lru_cache, of which torch.compile warns.
_DIRECTIONS: dict[tuple[int, torch.device], Tensor] = {}


def _directions(n_neurons: int, device: torch.device) -> Tensor:
    """Four directions, always the same, of unit variance a neuron."""
    if (n_neurons, device) not in _DIRECTIONS:
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(False):
            drawn = torch.randn(n_neurons, SKETCHED - 1, generator=generator)
            _DIRECTIONS[n_neurons, device] = drawn.to(device, torch.float64)
    return _DIRECTIONS[n_neurons, device]


def as_threshold(threshold: Any) -> Tensor:
    """A threshold as a finite floating-point tensor on the CPU.

    Raises:
        TypeError: it is neither a number nor a real tensor.
        ValueError: it is not finite.

    >>> as_threshold(0.5)
    tensor(0.5000, dtype=torch.float64)
    """
    if isinstance(threshold, Real) and not isinstance(threshold, bool):
        threshold = torch.tensor(float(threshold), dtype=torch.float64)
    is_real = isinstance(threshold, Tensor) and not threshold.is_complex()
    if not is_real or threshold.dtype == torch.bool:
        raise TypeError(
            f"threshold={threshold!r:.60} is a {type(threshold).__name__}; give a number, "
            'a real tensor of the layer\'s shape, or "median"'
        )
    value: Tensor = threshold.detach().to("cpu", feature_dtype(threshold.dtype))
    if not bool(value.isfinite().all()):
        raise ValueError("threshold holds NaN or infinity; give finite values")
    return value


class MedianSample:
    """The activations from which a per-neuron median is read, within a memory budget.

    Keeps the instances with the smallest hash of their position (a bottom-k sample), so
    the sample is uniform and depends on neither batch size nor workers.

    Args:
        capacity_bytes: floats to keep at most, but always those of one instance.

    >>> sample = MedianSample(1 << 20)
    >>> sample.add(torch.tensor([[1.0, 5.0], [2.0, 4.0], [3.0, 0.0]]))
    >>> sample.median(), sample.is_complete
    (tensor([2.5000, 4.5000], dtype=torch.float64), True)
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self.rows: list[Tensor] = []
        self._largest_hash_first: list[tuple[int, int]] = []
        self._seen = 0

    @property
    def is_complete(self) -> bool:
        """Whether every instance is kept: the median is exact, the rows in order."""
        return len(self.rows) == self._seen

    def add(self, rows: Tensor) -> None:
        """Add activations of shape ``(M, D)``, in the order of the reference set."""
        for row in rows.cpu():
            order, self._seen = -_hash(self._seen), self._seen + 1
            n_bytes = (len(self.rows) + 1) * row.nbytes
            if not self.rows or n_bytes <= self._capacity_bytes:
                heapq.heappush(self._largest_hash_first, (order, len(self.rows)))
                self.rows.append(row.clone())
            elif order > self._largest_hash_first[0][0]:
                _, slot = self._largest_hash_first[0]
                heapq.heapreplace(self._largest_hash_first, (order, slot))
                self.rows[slot].copy_(row)

    def median(self) -> Tensor:
        """Thresholds at the lower median of each neuron, float64 ``(D,)``.

        Each lies midway between the median and the next larger value, so that none sits
        on an instance's own activation, whose state rounding would then decide. A neuron
        of which no value is larger has its median.
        """
        n_neurons = self.rows[0].numel()
        step = max(1, _MEDIAN_BLOCK // len(self.rows))
        thresholds = []
        for start in range(0, n_neurons, step):
            values = torch.stack([row[start : start + step] for row in self.rows], 1)
            values = values.double()
            middle = values.median(1, keepdim=True).values
            above = values.where(values > middle, torch.inf).amin(1, keepdim=True)
            between = middle + (above - middle) / 2
            thresholds.append(torch.where(above.isinf(), middle, between)[:, 0])
        return torch.cat(thresholds)


def _hash(position: int) -> int:
    digest = hashlib.blake2b(position.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sampled_median_error(size: int, n_neurons: int) -> float:
    """Bound on the rank error of a median read off a uniform sample.

    With 99 % confidence every neuron's sampled median lies between its
    ``0.5 - error`` and ``0.5 + error`` quantiles over the whole reference set
    (Hoeffding's inequality for sampling without replacement, union over neurons).

    >>> round(sampled_median_error(20_000, 12_800), 4)
    0.0192
    """
    return math.sqrt(math.log(2 * n_neurons / 0.01) / (2 * size))
