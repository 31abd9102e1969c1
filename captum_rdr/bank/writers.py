"""Banks in the making: in memory, or in a folder, where a crash loses little."""

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_rdr._arguments import for_each
from captum_rdr.bank import bits, files
from captum_rdr.bank.bank import ConfigurationBank
from captum_rdr.model.fitting import LayerIndex, Writer
from captum_rdr.model.states import SKETCHED

BLOCK_ROWS = 4096  # instances after which what was written is forced to the disk
_CHUNK_BYTES = 1 << 24


def writers(out: Any, layer: Any, *, resume: bool) -> list[Writer]:
    """Where each layer's bank goes: to its folder, or into memory.

    Args:
        out: None, a folder, or for a list of layers a list of folders.
        layer: a module or a list of modules.
        resume: whether an earlier run is to be resumed.

    Raises:
        ValueError: the lists differ in length, two folders are one, or there is nothing
            to resume.
    """
    count = len(layer) if isinstance(layer, list) else 1
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the folder of the unfinished bank")
        return [MemoryWriter() for _ in range(count)]
    folders = [Path(one) for one in for_each(out, count, "out")]
    if len({os.path.realpath(folder) for folder in folders}) < count:
        raise ValueError(f"out={out!r} names one folder twice; give each layer its own")
    return [FolderWriter(folder, resume=resume) for folder in folders]


class MemoryWriter(Writer):
    """A bank that grows in memory."""

    def begin(self, threshold: Tensor) -> None:
        """Make room for all instances."""
        self._bank = _empty_bank(self.layer, threshold, self.layer.data.expected)

    def append(self, states: Tensor, features: Tensor | None, sketches: Tensor) -> None:
        """Append instances."""
        self._bank.append(bits.pack(states), features, sketches)

    def finish(self) -> ConfigurationBank:
        """The bank."""
        self._bank.probe = self.layer.probe
        first_rows = self.layer.data.first_rows
        self._bank.source = self._bank.source._replace(first_rows=first_rows)
        return self._bank


class FolderWriter(Writer):
    """A bank that is streamed to a folder, where an earlier run may have begun it.

    After `BLOCK_ROWS` what was written is forced to the disk, and then the draft, which
    says how many rows are finished and what their checksum is, is replaced.

    Args:
        folder: the folder.
        resume: go on with what an earlier run has left there.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self._folder, self._resume = folder, resume
        self._stack = ExitStack()
        self._arrays: dict[str, _GrowingArray] = {}
        self._fields: files.Fields = {}
        self._unsaved = 0

    def open(self, layer: LayerIndex) -> None:
        """Lock the folder, and go back to what an earlier run has finished.

        Raises:
            ValueError: that run had another model, layer or threshold.
            RuntimeError: another process writes to the folder.
        """
        super().open(layer)
        self._stack.enter_context(files.only_writer(self._folder))
        if not self._resume:
            return
        draft = files.read_manifest(self._folder / files.DRAFT)
        bank = files.read_manifest(self._folder / files.MANIFEST)
        if draft and bank and draft["generation"] <= bank["generation"]:
            draft = None  # a crash left it when the bank was finished
        fields = draft or bank
        if fields is None:
            return
        self._fields, arrays = fields, fields["arrays"]
        layer.n_finished, layer.is_finished = arrays["rows"]["shape"][0], draft is None
        fields.setdefault("expected", layer.n_finished)
        values = files.map_array(self._folder, arrays["threshold"])
        threshold = torch.from_numpy(np.array(values))
        self._check_same("fingerprint", fields["fingerprint"], layer.fingerprint)
        self._check_same("median", fields["is_median"], layer.is_median)
        self._check_same("keep_features", "features" in arrays, layer.keep_features)
        if layer.threshold is not None:
            flat = layer.threshold.flatten().tolist()
            self._check_same("threshold", threshold.flatten().tolist(), flat)
        for name in arrays.keys() - {"threshold"} if draft else ():
            entry = arrays[name]
            self._grow(name, entry["shape"][1], entry["dtype"]).recover(entry)
        layer.threshold = threshold

    def check_data(self) -> None:
        """Refuse to go on with other data than that of the earlier run.

        Raises:
            ValueError: length or first instances differ.
        """
        data, fields = self.layer.data, self._fields
        if fields.get("expected") and data.expected:
            self._check_same("length", fields["expected"], data.expected)
        if fields.get("first_rows"):
            self._check_same("first instances", fields["first_rows"], data.first_rows)

    def _check_same(self, what: str, stated: Any, here: Any) -> None:
        if stated != here:
            raise ValueError(
                f"the bank in {os.fspath(self._folder)!r} was made with {what} "
                f"{stated!s:.12}, but layer {self.layer.name!r} now has {here!s:.12}; "
                "give the same model, arguments and data in the same order as before, "
                "or fit without resume to begin anew"
            )

    def begin(self, threshold: Tensor) -> None:
        """Begin the files, unless the earlier run did.

        Raises:
            ValueError: the layer has another shape than in that run.
        """
        if self._fields:
            shape = list(self.layer.shape)
            self._check_same("shape", self._fields["layer_shape"], shape)
            return
        bank = _empty_bank(self.layer, threshold)
        self._fields = files.new_fields(self._folder, bank.fields)
        files.write_array(self._folder, self._fields, "threshold", bank.threshold)
        self._grow("rows", bits.row_width(bank.n_neurons), "|u1")
        self._grow("sketches", SKETCHED, "<f4")
        if self.layer.keep_features:
            held = files.as_array(torch.empty(0, dtype=self.layer.feature_dtype))
            self._grow("features", bank.n_neurons, held.dtype.str)
        self._save()

    def _grow(self, name: str, width: int, dtype: str) -> "_GrowingArray":
        path = files.array_path(self._folder, self._fields, name)
        self._arrays[name] = _GrowingArray(path, width, dtype)
        self._stack.callback(self._arrays[name].file.close)
        return self._arrays[name]

    def append(self, states: Tensor, features: Tensor | None, sketches: Tensor) -> None:
        """Append instances."""
        shape = torch.Size(self._fields["layer_shape"])
        rows = bits.padded(bits.pack(states), shape)
        parts = {"rows": rows, "sketches": sketches.float(), "features": features}
        for name, part in parts.items():
            if part is not None:
                self._arrays[name].append(files.as_array(part))
        self._unsaved += len(states)
        if self._unsaved >= BLOCK_ROWS:
            self._save()

    def _save(self) -> None:
        """Write down which rows are finished."""
        data = self.layer.data
        for name, array in self._arrays.items():
            self._fields["arrays"][name] = array.flush()
        self._fields["first_rows"] = data.first_rows if data.is_complete else ""
        self._fields["expected"] = data.expected
        files.write_manifest(self._folder / files.DRAFT, self._fields)
        self._unsaved = 0

    def finish(self) -> ConfigurationBank:
        """Put the bank in the place of the folder's old one; it is read back."""
        if self._arrays:  # else an earlier run has finished it
            self._publish()
        files.remove_leftovers(self._folder)
        return ConfigurationBank.load(self._folder)

    def _publish(self) -> None:
        fields = self._fields | {"first_rows": self.layer.data.first_rows}
        del fields["expected"]
        for name, array in self._arrays.items():
            fields["arrays"][name] = array.flush()
        rows = files.map_array(self._folder, fields["arrays"]["rows"], verify=False)
        n_neurons = torch.Size(fields["layer_shape"]).numel()
        counts = bits.count_active(torch.from_numpy(rows), n_neurons)
        files.write_array(self._folder, fields, "active_counts", counts)
        if self.layer.probe is not None:
            files.write_array(self._folder, fields, "probe", self.layer.probe.packed())
        files.write_manifest(self._folder / files.MANIFEST, fields)

    def close(self) -> None:
        """Close the files, and let others write to the folder."""
        self._stack.close()


class _GrowingArray:
    """A NumPy file to which rows are appended, and the checksum of its values."""

    def __init__(self, path: Path, width: int, dtype: str) -> None:
        self._path, self._width, self._dtype = path, width, dtype
        self._length, self._hash = 0, hashlib.sha256()
        path.touch()
        self.file = files.open_regular(path, "r+b", follow=False)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in it for the number of rows to grow.
        shape = (self._length, self._width)
        fields = {"descr": self._dtype, "fortran_order": False, "shape": shape}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, fields)

    def recover(self, entry: files.Fields) -> None:
        """Go back to the rows that an earlier run has finished.

        Raises:
            ValueError: they are damaged.
        """
        self._length = entry["shape"][0]
        left = self._length * self._width * np.dtype(self._dtype).itemsize
        while chunk := self.file.read(min(left, _CHUNK_BYTES)):
            self._hash.update(chunk)
            left -= len(chunk)
        if self._hash.hexdigest() != entry["sha256"]:
            raise files.refused(self._path, "is damaged in rows that were finished")
        self.file.truncate()

    def append(self, values: files.Array) -> None:
        """Append rows."""
        self._hash.update(values.data)
        self.file.write(values.data)
        self._length += len(values)

    def flush(self) -> files.Fields:
        """Force the rows to the disk; gives the file's entry in a manifest."""
        self._write_header()
        self.file.seek(0, os.SEEK_END)
        self.file.flush()
        os.fsync(self.file.fileno())
        shape, digest = (self._length, self._width), self._hash.hexdigest()
        return files.array_entry(self._path, shape, self._dtype, digest)


def _empty_bank(
    layer: LayerIndex, threshold: Tensor, reserve: int = 0
) -> ConfigurationBank:
    bank = ConfigurationBank(layer.shape, threshold, layer.fingerprint, reserve=reserve)
    bank.attribute_to_layer_input = layer.attribute_to_layer_input
    bank.source = files.Source(layer.name, layer.is_median)
    bank.axes = layer.axes_of(layer.shape)
    return bank
