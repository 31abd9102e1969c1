"""Banks in folders of NumPy files, and small files of tensors: all replaced whole.

A bank's folder holds its arrays as plain ``.npy`` files, and `MANIFEST`, which names them
and says what they hold. A new bank gets files of the next generation, so the old one is
whole until the manifest is replaced. `DRAFT` is the manifest of an unfinished bank.
"""

import hashlib
import json
import math
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from captum_rdr.axes import LayerAxes
from captum_rdr.bank.bits import row_width
from captum_rdr.model.packing import packed, unpacked
from captum_rdr.model.states import FLOATS, SKETCHED, feature_dtype

PathLike = str | os.PathLike[str]
Array = np.ndarray[Any, np.dtype[Any]]
Fields = dict[str, Any]
Tensors = Mapping[str, Tensor]

FORMAT_VERSION = 1
MANIFEST, DRAFT = "bank.json", "draft.json"

# Longer files are refused before they are read; a bank's arrays may be longer.
MOST_MANIFEST_BYTES, MOST_TENSOR_BYTES = 1 << 20, 1 << 30


_KIND = "configuration bank"
_ARRAYS = ("rows", "active_counts", "threshold", "features", "sketches", "probe")
_OWN = re.compile(rf"({'|'.join(_ARRAYS)})-(\d{{6,12}})\.npy")
_PASSING = re.compile(r"draft\.json|\.(bank\.json|draft\.json|lock)\.[0-9a-f]{16}")
_MOST_ATTEMPTS = 100  # to read a bank that others put new ones in the place of
_UNKNOWN: Fields = {}


class Source(NamedTuple):
    """Where a bank's states come from, beside the model that its fingerprint names.

    Attributes:
        layer: the layer's name; empty when unknown.
        is_median: whether the thresholds are the reference set's medians.
        first_rows: digest of the data's first instances; empty when unknown.
        axes: fields of the layer's `captum_rdr.axes.LayerAxes`; empty when unknown.
    """

    layer: str = ""
    is_median: bool = False
    first_rows: str = ""
    axes: dict = _UNKNOWN  # type: ignore[type-arg]  # JSON has no finer one


_KINDS = Source.__annotations__ | {"fingerprint": str, "attribute_to_layer_input": bool}


def write_bank(path: PathLike, fields: Fields, arrays: Tensors) -> None:
    """Write a bank to a folder, where an old one stays whole until it is replaced.

    Args:
        path: the folder, made if there is none; what else lies in it stays.
        fields: `captum_rdr.ConfigurationBank.fields`.
        arrays: its rows and whatever else is an array, by name.

    Raises:
        ValueError: there is a file of that name.
        RuntimeError: another process writes to the folder.
    """
    folder = Path(path)
    with only_writer(folder):
        try:
            fields = new_fields(folder, fields)
            for name, array in arrays.items():
                write_array(folder, fields, name, array)
            write_manifest(folder / MANIFEST, fields)
        finally:
            remove_leftovers(folder)


def read_bank(
    path: PathLike, *, mmap: bool = True, verify: bool = True
) -> tuple[Fields, dict[str, Tensor]]:
    """Read the bank of a folder, after comparing all sizes and checksums.

    The bank is whole, also while another process puts a new one in its place.

    Args:
        path: the folder, or a link to it; its files may not be links.
        mmap: leave rows and features on disk, mapped.
        verify: read all files through to compare their checksums.

    Returns:
        what `write_bank` takes.

    Raises:
        ValueError: a file is damaged or missing, or the bank is not finished.
        FileNotFoundError: there is nothing of that name.
    """
    folder = Path(path)
    attempts = 0
    while True:
        fields = read_manifest(folder / MANIFEST)
        if fields is None:
            kind = ValueError if os.path.lexists(folder) else FileNotFoundError
            raise kind(
                f"{os.fspath(folder)!r} holds no bank; give the folder that save or "
                "fit(..., out=...) wrote, or finish an unfinished bank with "
                "fit(..., out=..., resume=True)"
            )
        try:
            mapped = {
                name: map_array(folder, entry, verify=verify)
                for name, entry in fields["arrays"].items()
            }
            break
        except FileNotFoundError as error:
            # The bank was replaced meanwhile, unless the file stays away.
            attempts += 1
            if attempts == _MOST_ATTEMPTS:
                raise refused(error.filename, "is missing") from error
    grown = ("rows", "features", "sketches") if mmap else ()
    arrays = {
        name: torch.from_numpy(array if name in grown else np.array(array))
        for name, array in mapped.items()
    }
    with refusing(folder, "holds no bank"):
        _check_fit(fields, arrays)
    return fields, arrays


def _check_fit(fields: Fields, arrays: Tensors) -> None:
    """Refuse arrays of other shapes and dtypes than a bank has."""
    shape, threshold = torch.Size(fields["layer_shape"]), arrays["threshold"]
    n_rows, n_neurons = len(arrays["rows"]), math.prod(shape)
    wanted = {
        "rows": ((n_rows, row_width(n_neurons)), (torch.uint8,)),
        "active_counts": ((n_neurons,), (torch.int64,)),
        "features": ((n_rows, n_neurons), FLOATS),
        "sketches": ((n_rows, SKETCHED), (torch.float32,)),
        "threshold": ((n_neurons,) if threshold.dim() else (), FLOATS),
    }
    sound = [
        arrays[name].shape == size and arrays[name].dtype in dtypes
        for name, (size, dtypes) in wanted.items()
        if name in arrays
    ]
    is_whole = min(shape, default=1) > 0 and "active_counts" in arrays
    if not (all(sound) and is_whole and bool(threshold.isfinite().all())):
        raise ValueError(f"its arrays do not fit {n_neurons} neurons")
    if fields["axes"]:
        LayerAxes(**fields["axes"]).check(shape)


def map_array(folder: Path, entry: Fields, *, verify: bool = True) -> Array:
    """Map an array, which must be what the manifest says.

    Args:
        folder: the bank's.
        entry: what its manifest says of the array.
        verify: compare the checksum, too.

    Raises:
        ValueError: it is something else.
        FileNotFoundError: there is none.
    """
    path = folder / entry["file"]
    with (
        open_regular(path, follow=False) as file,
        refusing(path, "is not as the manifest says"),
    ):
        # As of version 1.0 in any case: later ones allow headers of gigabytes.
        np.lib.format.read_magic(file)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if [[*shape], dtype.str, by_column] != [entry["shape"], entry["dtype"], False]:
            raise ValueError(f"it holds {dtype} {shape}")
        if size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it has {size} bytes")
        # Private, since PyTorch warns of an array that cannot be written to.
        array = np.memmap(file, dtype, "c", start, shape)
    if verify and hashlib.sha256(array.data).hexdigest() != entry["sha256"]:
        raise refused(path, "is damaged: its checksum is another")
    return array


def refused(path: PathLike, what: str) -> ValueError:
    """The error for a file that cannot be used."""
    return ValueError(
        f"{os.fspath(path)!r} {what}; restore it from a copy, or write it anew (a bank "
        "by save, or by fit without resume)"
    )


@contextmanager
def refusing(path: PathLike, what: str) -> Iterator[None]:
    """Refuse a file for whatever damaged or forged values run into."""
    try:
        yield
    except Exception as error:  # neither NumPy nor JSON say what that can be
        raise refused(path, f"{what} ({error})") from error


def new_fields(folder: Path, fields: Fields) -> Fields:
    """A new bank's manifest without arrays; what unfinished banks left is removed.

    Args:
        folder: the folder.
        fields: what is no array.
    """
    own = [_OWN.fullmatch(name) for name in os.listdir(folder)]
    remove_leftovers(folder)
    generation = 1 + max((int(one[2]) for one in own if one), default=0)
    return {**fields, "generation": generation, "arrays": {}}


def remove_leftovers(folder: Path) -> None:
    """Remove the files of this package that are not those of the folder's bank."""
    try:
        fields = read_manifest(folder / MANIFEST)
    except ValueError:  # damaged: its files stay until a new bank is complete
        return
    kept = {entry["file"] for entry in fields["arrays"].values()} if fields else set()
    for name in os.listdir(folder):
        if (_OWN.fullmatch(name) or _PASSING.fullmatch(name)) and name not in kept:
            with suppress(OSError):  # a folder, or mapped by a reader on Windows
                os.unlink(folder / name)


def array_path(folder: Path, fields: Fields, name: str) -> Path:
    """The file of one of a bank's arrays."""
    return folder / f"{name}-{fields['generation']:06d}.npy"


def write_array(folder: Path, fields: Fields, name: str, tensor: Tensor) -> None:
    """Write one of a bank's arrays, and enter it in the manifest's fields."""
    path, values = array_path(folder, fields, name), as_array(tensor)
    path.unlink(missing_ok=True)  # a crash may have left it
    with open(path, "xb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(values.data).hexdigest()
    fields["arrays"][name] = array_entry(path, values.shape, values.dtype.str, digest)


def as_array(tensor: Tensor) -> Array:
    """A tensor as NumPy writes it, which has no bfloat16."""
    if tensor.is_floating_point():
        tensor = tensor.to(feature_dtype(tensor.dtype))
    return tensor.detach().cpu().contiguous().numpy()


def array_entry(path: Path, shape: Sequence[int], dtype: str, digest: str) -> Fields:
    """What a manifest says of an array."""
    return {"file": path.name, "shape": [*shape], "dtype": dtype, "sha256": digest}


def write_manifest(path: Path, fields: Fields) -> None:
    """Write a manifest in place of the old one, once the files that it names last."""
    flush_folder(path.parent)
    with replacing(path) as file:
        text = json.dumps(_sealed(_KIND, fields), indent=1, sort_keys=True)
        file.write(text.encode())


def read_manifest(path: Path) -> Fields | None:
    """Read what `write_manifest` wrote; None if there is nothing.

    Raises:
        ValueError: it is damaged, of another version, or describes no bank.
    """
    try:
        text = _read_all(path, MOST_MANIFEST_BYTES, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with refusing(path, f"is no readable {_KIND} file"):
        fields: Fields = json.loads(text)
    _check_seal(path, _KIND, fields)
    with refusing(path, "describes no bank"):
        arrays = fields["arrays"]
        names = {name: array_path(path.parent, fields, name).name for name in arrays}
        odd = [name for name, kind in _KINDS.items() if type(fields[name]) is not kind]
        odd += [name for name in names if arrays[name]["file"] != names[name]]
        if odd or not {"rows", "threshold"} <= arrays.keys() <= set(_ARRAYS):
            raise ValueError(f"its arrays are {[*arrays]}, and odd are {odd}")
    return fields


def _sealed(kind: str, fields: Fields) -> Fields:
    """Fields with a checksum of themselves."""
    fields = {"kind": kind, "version": FORMAT_VERSION, **fields}
    return {**fields, "sha256": _checksum(fields)}


def _check_seal(path: PathLike, kind: str, fields: Fields) -> None:
    """Refuse what is not as `_sealed` made it."""
    with refusing(path, f"is no readable {kind} file"):
        stated, found = fields.pop("sha256"), (fields["kind"], fields["version"])
        is_whole = stated == _checksum(fields)
    if found != (kind, FORMAT_VERSION):
        what = f"holds a {found[0]} of format version {found[1]}, not a {kind} of"
        raise refused(path, f"{what} version {FORMAT_VERSION}")
    if not is_whole:
        raise refused(path, "is damaged: its checksum is not what it states")


def _checksum(fields: Fields) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make a folder and keep others from writing to it, where the system can.

    The lock ends with the process, however it ends.

    Raises:
        ValueError: there is a file of that name.
        RuntimeError: another process, or another call in this one, holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{os.fspath(folder)!r} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RuntimeError(
            f"{os.fspath(folder)!r} is being written to already; wait for that process "
            "to end, or give another folder"
        ) from error
    except OSError as error:
        warnings.warn(
            f"the file system of {os.fspath(folder)!r} has no locks ({error}); see to "
            "it that nothing else writes to that folder",
            UserWarning,
            stacklevel=5,
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file beside ``target`` that takes its place at the end, in one step.

    A link is replaced, not what it points to. After an exception the old file stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a")) as file:
    ...         _ = file.write(b"new")
    ...     Path(folder, "a").read_bytes()
    b'new'
    """
    # Cut, since the target's name may be as long as a name can be.
    draft = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    flush_folder(target.parent)


def flush_folder(folder: Path) -> None:
    """Make new, replaced and removed names in a folder last."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_regular(path: PathLike, mode: str = "rb", follow: bool = True) -> IO[bytes]:
    """Open a file that is there.

    Args:
        path: the file.
        mode: as in `open`.
        follow: whether it may be a symbolic link to a file.

    Raises:
        ValueError: it is a folder, a device, a pipe, or a link that is not followed.
        FileNotFoundError: there is none.

    >>> open_regular(os.devnull)
    Traceback (most recent call last):
    ValueError: '/dev/null' is no regular file; give the path of one
    """
    # Opening a pipe would wait for a writer.
    if not stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):
        raise ValueError(
            f"{os.fspath(path)!r} is no regular file; give the path of one"
        )
    return open(path, mode)


def _read_all(path: PathLike, most_bytes: int, *, follow: bool = True) -> bytes:
    with open_regular(path, follow=follow) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise refused(path, f"is longer than {most_bytes} bytes")
        return file.read()


def write_tensors(path: PathLike, kind: str, tensors: Tensors, fields: Fields) -> None:
    """Write a small file of tensors and JSON fields in the safetensors format.

    Args:
        path: the file; an old one is replaced at the end, in one step.
        kind: what it holds, checked by `read_tensors`.
        tensors: named tensors.
        fields: JSON-serializable values.
    """
    stated = {"fields": fields, "tensors": _tensor_checksum(tensors)}
    with replacing(Path(path)) as file:
        file.write(packed(tensors, _sealed(kind, stated)))


def read_tensors(path: PathLike, kind: str) -> tuple[dict[str, Tensor], Fields]:
    """Read what `write_tensors` wrote, after checking all of it.

    Raises:
        ValueError: the file is damaged, of another kind or of another version.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/a", "demo", {"x": torch.ones(2)}, {"y": 3})
    ...     read_tensors(f"{folder}/a", "demo")
    ({'x': tensor([1., 1.])}, {'y': 3})
    """
    data = _read_all(path, MOST_TENSOR_BYTES)
    with refusing(path, f"is no readable {kind} file"):
        tensors, stated = unpacked(data)
        found = _tensor_checksum(tensors)
    _check_seal(path, kind, stated)
    if stated["tensors"] != found:
        raise refused(path, "is damaged: its checksum is not what it states")
    return tensors, stated["fields"]


def _tensor_checksum(tensors: Tensors) -> str:
    return hashlib.sha256(packed(tensors, None)).hexdigest()
