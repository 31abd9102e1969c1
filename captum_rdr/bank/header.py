"""Headers of tensor files: made, and parsed without believing what they say."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the dtypes in the safetensors format, widest first."""

MOST_HEADER_BYTES = 1 << 20
"""A longer header is refused before it is read."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"


class Place(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        start: its first byte, counted from the start of the file.
        stop: the byte behind its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def in_file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors, the widest dtype first, so that each is aligned.

    >>> in_file_order({"a": torch.ones(1, dtype=torch.uint8), "b": torch.ones(1)})
    ['b', 'a']
    """
    order = list(DTYPES.values())
    return sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))


def make_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The header's length, the header, and spaces up to whole 64-bit words.

    >>> make_header({"x": torch.ones(2)}, {})[8:].rstrip()
    b'{"__metadata__":{},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    """
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    stop = 0
    for name in in_file_order(tensors):
        tensor = tensors[name]
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_length(prefix: bytes, file_bytes: int) -> int:
    """Bytes of the header that follows the first eight bytes of a file.

    Raises:
        ValueError: the file cannot hold it, or it is longer than any header.
    """
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > file_bytes - 8:
        raise ValueError(f"it has {file_bytes} bytes, too few for its header")
    if length > MOST_HEADER_BYTES:
        raise ValueError(
            f"its header has {length} bytes, more than {MOST_HEADER_BYTES}"
        )
    return length


def parse_header(
    text: bytes, file_bytes: int
) -> tuple[dict[str, str], dict[str, Place]]:
    """Metadata and places of the tensors, which fill the file without gap or overlap.

    Raises:
        ValueError: the header says anything else.

    >>> header = make_header({"x": torch.ones(2)}, {"kind": "demo"})[8:]
    >>> parse_header(header, 8 + len(header) + 8)[0]
    {'kind': 'demo'}
    """
    try:
        entries = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is nested too deep") from error
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError("its metadata is not text")
    places = {name: _place(entry, 8 + len(text)) for name, entry in entries.items()}
    position = 8 + len(text)
    for place in sorted(places.values(), key=lambda place: (place.start, place.stop)):
        if place.start != position:
            raise ValueError("its tensors overlap or leave gaps")
        position = place.stop
    if position != file_bytes:
        raise ValueError(f"it has {file_bytes} bytes, but its header says {position}")
    return metadata, places


def _place(entry: Any, data_start: int) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ValueError("its header describes no tensor")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    shape, offsets = entry["shape"], entry["data_offsets"]
    if dtype is None or not _are_sizes(shape) or not _are_sizes(offsets):
        raise ValueError("its header gives a tensor no dtype, shape or place")
    if len(offsets) != 2 or len(shape) > 64:
        raise ValueError("its header gives a tensor no shape or place")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise ValueError("its header gives a tensor more or less room than its shape")
    return Place(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 62 for value in values
    )
