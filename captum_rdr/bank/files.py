"""Files that are replaced whole, opened with care and read at an offset."""

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch.nn import Module

from captum_rdr._arguments import for_each

PathLike = str | os.PathLike[str]

_ONE_AT_A_TIME = threading.Lock()


def open_regular(path: PathLike, *, follow: bool = True) -> int:
    """Open a file for reading and give its descriptor.

    Args:
        path: the file.
        follow: whether it may be a symbolic link to a file.

    Raises:
        ValueError: it is a folder, a device, a pipe, or a link that is not followed.
        FileNotFoundError: there is none.

    >>> open_regular(os.devnull)
    Traceback (most recent call last):
    ValueError: '/dev/null' is no regular file; give the path of one
    """
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    refused = ValueError(
        f"{os.fspath(path)!r} is no regular file; give the path of one"
    )
    if not follow and os.path.islink(path):
        raise refused
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(
            f"{os.fspath(path)!r} cannot be opened ({error.strerror}); give the path of "
            "a file that you may read"
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise refused
    return handle


def read_at(handle: int, buffer: Any, offset: int) -> None:
    """Fill a writable buffer from an offset of a file.

    Raises:
        OSError: the file ends too early.
    """
    left = memoryview(buffer).cast("B")
    while left.nbytes:
        got = _read_some(handle, left, offset)
        if got == 0:
            raise OSError(
                f"a bank file ends at byte {offset}, {left.nbytes} bytes too early; it "
                "was changed while it was in use, so restore it and load it again"
            )
        left, offset = left[got:], offset + got


def _read_some(handle: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):  # leaves the position alone that threads and forks share
        return os.preadv(handle, [buffer], offset)
    with _ONE_AT_A_TIME:
        os.lseek(handle, offset, os.SEEK_SET)
        data = os.read(handle, min(len(buffer), 1 << 24))
    buffer[: len(data)] = data
    return len(data)


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Write a file beside ``target`` that takes its place at the end, in one step.

    A link is replaced, not what it points to. After an exception the old file stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a")) as file:
    ...         _ = file.write(b"new")
    ...     Path(folder, "a").read_bytes()
    b'new'
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
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


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, where the system can.

    The lock ends with the process, however it ends.

    Raises:
        RuntimeError: another process, or another call in this one, holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"{os.fspath(folder)!r} is being written to already; wait for that "
                "process to end, or give another folder"
            ) from error
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


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


class Stored(NamedTuple):
    layer_shape: Any
    threshold: Any
    fingerprint: str
    attribute_to_layer_input: bool
    rows: Any
    active_counts: Any
    features: Any = None
    layer: str = ""
