"""Tensors of a ``.pt`` file: where each stands, so that it can be read alone."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from weyl._text import one_line
from weyl.checkpoints._opened import OpenFile
from weyl.checkpoints._pickled import describe
from weyl.checkpoints._stored import LARGEST, MOST_DIMENSIONS, Stored, TensorInfo, dtype_named
from weyl.errors import InputError

__all__ = ["Other", "Pending", "read_torch"]

MOST_PACKED = 100  # times; weights hardly compress, and torch does not even try
AT_ONCE = 2**20  # bytes
LOCAL = struct.Struct("<4s5H3I2H")  # header of an entry


class Other:
    """What is no tensor and no dict; only its type is known.

    Parameters
    ----------
    title : str
        Name of the type.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def __str__(self) -> str:
        return self.title


class Pending(Other):
    """A tensor of the file. Its place is checked when it is wanted: what is left out need not be in order.

    Parameters
    ----------
    facts : mapping
        What the pickle says of it.
    entries : mapping of str to _Entry
        The storages of the file.
    file : OpenFile
        The file.
    """

    def __init__(self, facts: Mapping[str, Any], entries: Mapping[str, _Entry], file: OpenFile) -> None:
        super().__init__("Tensor")
        self._facts, self._entries, self._file = facts, entries, file

    def stored(self, title: str) -> Stored:
        """Where it is.

        Parameters
        ----------
        title : str
            Its name, for the message.

        Raises
        ------
        InputError
            If it is of a kind that is not read, or leaves its storage.
        """
        facts, shown = self._facts, f"{self._file.name}: {one_line(title, 80)}"
        _refuse_kind(facts, shown)
        dtype = dtype_named(facts["dtype"], shown)
        info = TensorInfo(dtype, tuple(facts["shape"]))
        offset, stride = facts["offset"], tuple(facts["stride"])
        entry = self._entries.get(facts["storage"])
        damaged = InputError(f"{shown} is damaged: it does not fit the bytes that it is made of; copy it again")
        if entry is None or entry.size != facts["storage_bytes"] or len(stride) != len(info.shape):
            raise damaged
        if info.nbytes > entry.size:
            count = math.prod(info.shape)
            raise InputError(f"{shown} repeats its memory to {count:,} values; save it with .clone()")
        last = sum((size - 1) * step for size, step in zip(info.shape, stride, strict=True))
        impossible = math.prod(size or 1 for size in info.shape) > LARGEST or len(info.shape) > MOST_DIMENSIONS
        if impossible or (info.nbytes and (offset + last + 1) * dtype.itemsize > entry.size):
            raise damaged
        return Stored(self._file, entry.begin, entry.size, info, offset, stride, checked=entry.check)


class _Entry:
    """A storage in an archive, or in a file of the older format, where ``crc`` is not known."""

    def __init__(self, file: OpenFile, title: str, begin: int, size: int, crc: int | None) -> None:
        self.file, self.title, self.begin, self.size, self.crc = file, title, begin, size, crc
        self._sound = crc is None

    def check(self, whole: memoryview | None) -> None:
        """Raise an InputError if the bytes do not have the checksum; they are read for it if they are not given."""
        if self._sound:
            return
        crc = 0
        if whole is not None:
            crc = zlib.crc32(whole)
        else:
            for begin in range(0, self.size, AT_ONCE):
                crc = zlib.crc32(self.file.read(self.begin + begin, min(AT_ONCE, self.size - begin)), crc)
        if crc != self.crc:
            shown = one_line(self.title, 80)
            raise InputError(f"{self.file.name} is damaged: the checksum of its entry {shown} is wrong; copy it again")
        self._sound = True


Tree = dict[Any, Any]


def read_torch(file: OpenFile, notes: list[str]) -> Other | Tree:
    """Find the tensors of a file that torch.save wrote; nothing in it is run, and no tensor is read.

    Parameters
    ----------
    file : OpenFile
        The file.
    notes : list of str
        What a reader must know is added here.

    Returns
    -------
    Other or dict
        What was saved: a dict of two levels at most, with tensors as `Pending`.

    Raises
    ------
    InputError
        If it is damaged, or holds anything that could run code.
    """
    if file.read(0, min(4, file.size)).startswith(b"PK"):
        return _read_archive(file, notes)
    told = describe(file, "legacy")
    # Storages follow one another, each after its number of entries; how long an entry is, the pickle says.
    entries: dict[str, _Entry] = {}
    place = told["end"]
    for key in told["keys"]:
        size = told["sizes"].get(key)
        if size is None or key in entries or place + 8 + size > file.size:
            raise InputError(f"{file.name} is damaged: its storages are not all there; copy it again")
        entries[key] = _Entry(file, f"storage {key}", place + 8, size, None)
        place += 8 + size
    return _built(told["content"], entries, file)


def _read_archive(file: OpenFile, notes: list[str]) -> Other | Tree:
    try:
        with os.fdopen(os.dup(file.descriptor), "rb") as stream, zipfile.ZipFile(stream) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise InputError(f"{file.name} is damaged: two of its entries have one name; copy it again")
    except zipfile.BadZipFile as error:
        raise InputError(f"{file.name} is damaged, no whole file: {one_line(error)}; copy it again") from error
    except (EOFError, OSError, ValueError, RuntimeError, NotImplementedError, struct.error) as error:
        raise InputError(f"{file.name} is no whole file: {one_line(error)}; copy it again") from error
    prefix = _check_members(members, file)
    if not any(member.CRC for member in members.values()):
        notes.append(f"{one_line(file.path.name)} was written without checksums, so that damage cannot be seen")
        entries = {name: _place(file, member, None) for name, member in members.items()}
    else:
        entries = {name: _place(file, member, member.CRC) for name, member in members.items()}
    pickled = entries[f"{prefix}data.pkl"]
    pickled.check(None)
    order = entries.get(f"{prefix}byteorder")
    if order is not None and file.read(order.begin, min(order.size, 16)) != b"little":
        raise InputError(f"{file.name} holds numbers in big-endian order, which are not read; convert them")
    told = describe(file, "archive", pickled.begin, pickled.size)
    start = f"{prefix}data/"
    storages = {name.removeprefix(start): entry for name, entry in entries.items() if name.startswith(start)}
    return _built(told["content"], storages, file)


def _check_members(members: Mapping[str, zipfile.ZipInfo], file: OpenFile) -> str:
    """Refuse archives of other kinds, and those that would unpack to far more; returns what all names begin with."""
    name = file.name
    inner = {title.partition("/")[2] for title in members}
    if "constants.pkl" in inner or any(title.startswith("code/") for title in inner):
        raise InputError(f"{name} is a TorchScript program, which is not run; save the state dict of the model")
    exported = {"archive_format", "serialized_exported_program.json"}
    if exported & (inner | members.keys()) or any(title.startswith("models/") for title in inner):
        raise InputError(f"{name} is an exported program, which is not run; save the state dict of the model")
    pickles = [title for title in members if title.partition("/")[2] == "data.pkl"]
    if not pickles:
        raise InputError(f"{name} is a zip archive without a state dict; torch.save(model.state_dict(), ...) makes one")
    unpacked = sum(member.file_size for member in members.values())
    if unpacked > MOST_PACKED * max(file.size, 1):
        raise InputError(f"{name} would unpack to {unpacked:,} bytes, far more than weights do; it was not opened")
    if len(pickles) > 1:
        raise InputError(f"{name} is damaged: it holds two pickles; save its state dict again")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members.values()):
        raise InputError(f"{name} is compressed or encrypted, as torch.save never writes; save its state dict again")
    return pickles[0].removesuffix("data.pkl")


def _place(file: OpenFile, member: zipfile.ZipInfo, crc: int | None) -> _Entry:
    """Where the bytes of an entry are; the header in front of them says how long it is itself."""
    title = one_line(member.filename, 80)
    damaged = InputError(f"{file.name} is damaged: its entry {title} is not where it should be; copy it again")
    if not 0 <= member.header_offset <= file.size - LOCAL.size:
        raise damaged
    fields = LOCAL.unpack(file.read(member.header_offset, LOCAL.size))
    begin = member.header_offset + LOCAL.size + fields[9] + fields[10]
    if fields[0] != b"PK\x03\x04" or begin + member.file_size > file.size or member.compress_size != member.file_size:
        raise damaged
    return _Entry(file, member.filename, begin, member.file_size, crc)


def _built(node: Mapping[str, Any], entries: Mapping[str, _Entry], file: OpenFile) -> Other | Tree:
    if "items" in node:
        return {
            key if isinstance(key, str) else Other(key[0]): _built(item, entries, file) for key, item in node["items"]
        }
    if node["is"] == "Tensor":
        return Pending(node, entries, file)
    # Of a dict deeper down only this is known: whether there is anything in it.
    return {} if node.get("size") == 0 else Other("dict" if "size" in node else node["is"])


def _refuse_kind(facts: Mapping[str, Any], shown: str) -> None:
    kind, dtype = facts["kind"], facts["dtype"]
    if kind == "meta":
        raise InputError(f"{shown} has no values (it is on meta); save the model with its weights")
    if kind or dtype.startswith(("q", "quint")):
        raise InputError(f"{shown} is a {kind or 'quantised'} {one_line(dtype, 40)} tensor; save dense numbers")
