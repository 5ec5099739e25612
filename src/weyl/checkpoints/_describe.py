"""What the pickles of a ``.pt`` file say, told without making any of it; run as a program of its own.

Only the standard library is imported, so that a process starts in some hundredths of a second, where one that imports
torch takes seconds. Every name in a pickle becomes a stand-in of this file or is refused: nothing of torch and nothing
of anybody else's is ever called, tensors are described by their storage, offset, shape and strides, and the bytes of
storages are not read here at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import sys
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["describe_archive", "describe_legacy", "guarded"]

MOST_MEMORY = 2**30  # bytes of address space
MOST_SECONDS = 60  # of processor time
DEEPEST = 100  # containers within containers
MAGIC = 0x1950A86A20F9469CFC6C  # of the format before zip archives
STORAGES = dict(
    pair.split(":")
    for pair in (
        "Double:float64 Float:float32 Half:float16 BFloat16:bfloat16 Long:int64 Int:int32 Short:int16 Char:int8"
        " Byte:uint8 Bool:bool ComplexDouble:complex128 ComplexFloat:complex64 QUInt8:quint8 QInt8:qint8 QInt32:qint32"
        " QUInt4x2:quint4x2 QUInt2x4:quint2x4 Untyped:uint8"
    ).split()
)
DTYPES = frozenset(STORAGES.values()) | {
    *("complex32", "uint16", "uint32", "uint64", "float4_e2m1fn_x2", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *(f"{sign}int{bits}" for sign in ("u", "") for bits in range(1, 8)),
}
ITEM = {"float64": 8, "int64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4, "qint32": 4, "int16": 2}
ITEM |= {"float16": 2, "bfloat16": 2, "complex32": 4}  # all others have one byte


class Refused(Exception):
    """A pickle that is not read: ``why`` is ``global``, ``damaged`` or ``unfit``."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


class Inert:
    """A stand-in for whatever a pickle names; it can be called and given a state, and does nothing.

    A pickle can reach attributes of what it made. There are none here, and no state is kept.
    """

    __slots__ = ("title",)

    def __init__(self, title: str) -> None:
        self.title = title

    def __call__(self, *_: object) -> object:
        return self

    def __setstate__(self, state: object) -> None:
        """Ignore it."""


class Table(dict[Any, Any]):
    """A dict of another name; attributes that a pickle gives it are dropped."""

    def __setstate__(self, state: object) -> None:
        """Ignore it."""


class Storage(Inert):
    """Numbers somewhere in the file."""

    __slots__ = ("count", "dtype", "key")

    def __init__(self, key: str, dtype: str, count: int) -> None:
        super().__init__("storage")
        self.key, self.dtype, self.count = key, dtype, count


class Described(Inert):
    """A tensor, as its place in a storage."""

    __slots__ = ("facts",)

    def __init__(self, **facts: object) -> None:
        super().__init__("Tensor")
        self.facts = facts


class Dtype(Inert):
    """A type of numbers."""

    __slots__ = ()


class StorageType(Inert):
    """A type of storages; the title is that of its numbers."""

    __slots__ = ()


class Make(Inert):
    """Make a dict or a tuple, as the title says."""

    __slots__ = ()

    def __call__(self, *given: object) -> object:
        first = given[0] if given else ()
        if self.title == "Size":
            return tuple(first) if isinstance(first, tuple | list) else ()
        return Table(first if isinstance(first, dict | list | tuple) else ())


class Rebuild(Inert):
    """One of torch's functions that make tensors."""

    __slots__ = ()

    def __call__(self, *given: object) -> object:
        try:
            return _REBUILD[self.title](*given)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise Refused("damaged", f"{self.title}: {error}") from None


def _whole(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise ValueError("expected a number of entries")
    return number


def _wholes(numbers: object) -> list[int]:
    if not isinstance(numbers, tuple | list):
        raise TypeError("expected a shape")
    return [_whole(number) for number in numbers]


def _tensor(storage: object, offset: object, shape: object, stride: object, *rest: object) -> object:
    """As torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    if not isinstance(storage, Storage):
        raise TypeError("expected a storage")
    # The last of rest are bits that say that numbers are to be read as conjugates or negatives.
    kind = "negated" if len(rest) > 2 and rest[2] else ""
    return _placed(storage, storage.dtype, kind, offset, shape, stride)


def _tensor_v3(*given: Any) -> object:
    """As torch._utils._rebuild_tensor_v3, which names the type of numbers."""
    storage, offset, shape, stride, _, _, dtype, *bits = given
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype):
        raise TypeError("expected a storage and a type")
    return _placed(storage, dtype.title, "negated" if any(bits) else "", offset, shape, stride)


def _placed(storage: Storage, dtype: str, kind: str, offset: object, shape: object, stride: object) -> Described:
    return Described(
        kind=kind,
        dtype=dtype,
        storage=storage.key,
        storage_bytes=storage.count * ITEM.get(storage.dtype, 1),
        offset=_whole(offset),
        shape=_wholes(shape),
        stride=_wholes(stride),
    )


def _other(kind: str, dtype: object = "float32") -> Described:
    return Described(kind=kind, dtype=dtype.title if isinstance(dtype, Dtype) else str(dtype))


def _sparse(layout: object, data: object) -> object:
    parts = data if isinstance(data, tuple) else ()
    dtype = [part.facts["dtype"] for part in parts if isinstance(part, Described)][-1:] or ["float32"]
    return _other(f"sparse ({layout if isinstance(layout, str) else 'sparse'})", dtype[0])


def _encoded(text: object, encoding: object = "latin1") -> object:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("only text in latin1 stands for bytes")
    return text.encode("latin1")


_REBUILD: dict[str, Any] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": lambda data, *_: data,
    "_rebuild_parameter_with_state": lambda data, *_: data,
    "_rebuild_from_type_v2": lambda make, _kind, given, _state: make(*given) if isinstance(make, Rebuild) else make,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_nested_tensor": lambda buffer, *_: _other("nested", buffer.facts["dtype"]),
    "_rebuild_qtensor": lambda storage, *_: _other("quantised", storage.dtype),
    "_rebuild_meta_tensor_no_storage": lambda dtype, *_: _other("meta", dtype),
    "_get_layout": lambda title: str(title).removeprefix("torch."),
    "encode": _encoded,
}
_OTHERS: dict[str, Inert] = {
    "collections.OrderedDict": Make("OrderedDict"),
    "collections.Counter": Make("Counter"),
    "torch.Size": Make("Size"),
    **dict.fromkeys(("torch.device", "torch.Tensor", "torch._tensor.Tensor"), Inert("thing")),
    "torch.nn.parameter.Parameter": Inert("thing"),
    "torch.serialization._get_layout": Rebuild("_get_layout"),
    "torch._tensor._rebuild_from_type_v2": Rebuild("_rebuild_from_type_v2"),
    "_codecs.encode": Rebuild("encode"),
    **{f"{m}.{t}": Inert(t) for m in ("builtins", "__builtin__") for t in ("set", "frozenset", "bytearray", "complex")},
}


def _stand_in(module: str, title: str) -> Inert:
    """What stands for a name; whatever a state dict does not need is refused."""
    found = _OTHERS.get(f"{module}.{title}")
    if found is not None:
        return found
    if module == "torch._utils" and title in _REBUILD:
        return Rebuild(title)
    if module in ("torch", "torch.cuda", "torch.storage") and title.removesuffix("Storage") in STORAGES:
        return StorageType(STORAGES[title.removesuffix("Storage")])
    if module == "torch" and title in DTYPES:
        return Dtype(title)
    if module == "torch" and title.startswith(("per_tensor_", "per_channel_")):
        return Inert(title)  # how numbers are quantised
    raise Refused("global", f"{module}.{title}")


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, title: str) -> Inert:
        return _stand_in(module, title)

    def persistent_load(self, pid: Any) -> Storage:
        """A reference to a storage: its type, key, device and number of entries."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
            raise Refused("damaged", "a reference to something that is no storage")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, StorageType) or not isinstance(key, str) or any(view):
            raise Refused("damaged", "a reference to a storage that is not one")
        size = _whole(count) * ITEM.get(kind.title, 1)
        if self.sizes.setdefault(key, size) != size:
            raise Refused("damaged", "a storage of two sizes")
        return Storage(key, kind.title, count)


def describe_archive(data: bytes) -> dict[str, Any]:
    """Tell what the one pickle of a zip archive says.

    Parameters
    ----------
    data : bytes
        The entry ``data.pkl``.

    Returns
    -------
    dict
        ``content``: a tree of two levels, JSON-ready.

    Raises
    ------
    Refused
        If it names anything that no state dict needs, refers to itself, or is nested too deep.

    Examples
    --------
    >>> describe_archive(pickle.dumps({"epoch": 3}))
    {'content': {'is': 'dict', 'size': 1, 'items': [['epoch', {'is': 'int'}]]}}
    """
    return {"content": _told(_Unpickler(io.BytesIO(data)).load())}


def describe_legacy(stream: IO[bytes]) -> dict[str, Any]:
    """Tell what the pickles at the beginning of a file of the older format say.

    Parameters
    ----------
    stream : file
        At its beginning.

    Returns
    -------
    dict
        ``content`` as `describe_archive`; ``keys``, the storages in the order in which they follow; ``sizes``, their
        bytes; and ``end``, where the first begins.

    Raises
    ------
    Refused
        As `describe_archive`, or if it was not written by torch.
    """
    magic = _Unpickler(stream).load()
    if magic != MAGIC:
        raise Refused("unfit", _told(magic)["is"])
    protocol, system = _Unpickler(stream).load(), _Unpickler(stream).load()
    unpickler = _Unpickler(stream)
    content, keys = unpickler.load(), _Unpickler(stream).load()
    if protocol != 1001 or not isinstance(system, dict) or not system.get("little_endian", True):
        raise Refused("damaged", "another protocol, or another order of bytes")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("damaged", "no list of storages")
    return {"content": _told(content), "keys": keys, "sizes": unpickler.sizes, "end": stream.tell()}


def _told(content: object) -> dict[str, Any]:
    _refuse_depth(content)
    return _node(content, 2)


def _node(value: object, levels: int) -> dict[str, Any]:
    if isinstance(value, Described):
        return {"is": "Tensor", **value.facts}
    if not isinstance(value, dict):
        return {"is": value.title if isinstance(value, Inert) else type(value).__name__}
    told: dict[str, Any] = {"is": "OrderedDict" if isinstance(value, Table) else "dict", "size": len(value)}
    if levels:
        told["items"] = [[_key(key), _node(item, levels - 1)] for key, item in dict.items(value)]
    return told


def _key(key: object) -> object:
    """A name, or in a list what else a key is."""
    if isinstance(key, str):
        return key
    return [repr(key)[:80] if isinstance(key, int | float | bytes | None) else type(key).__name__]


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        return iter([*dict.keys(value), *dict.values(value)])
    return iter(value) if isinstance(value, list | tuple | set | frozenset) else iter(())


def _refuse_depth(content: object) -> None:
    """Refuse what contains itself, or is nested deeper than anything that is saved."""
    path: list[tuple[int, Iterator[object]]] = [(id(content), _children(content))]
    entered, done = {id(content)}, set[int]()
    while path:
        here, children = path[-1]
        for child in children:
            if not isinstance(child, dict | list | tuple | set | frozenset) or id(child) in done:
                continue
            if id(child) in entered:
                raise Refused("damaged", "it contains itself")
            if len(path) >= DEEPEST:
                raise Refused("damaged", f"it is nested more than {DEEPEST} deep")
            entered.add(id(child))
            path.append((id(child), _children(child)))
            break
        else:
            path.pop()
            entered.discard(here)
            done.add(here)


def guarded(mode: str, begin: int, size: int, descriptor: int = 0) -> dict[str, Any]:
    """Describe what an open file holds; whatever goes wrong is told, too.

    Parameters
    ----------
    mode : str
        ``archive`` for a pickle at a place, ``legacy`` for a whole file.
    begin, size : int
        The place.
    descriptor : int
        Of the open file.

    Returns
    -------
    dict
        As `describe_archive`, or ``refused`` and ``text``.
    """
    try:
        if mode == "archive":
            return describe_archive(os.pread(descriptor, size, begin))
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            stream.seek(0)
            return describe_legacy(stream)
    except Refused as error:
        return {"refused": error.why, "text": str(error)}
    except MemoryError:
        return {"refused": "limit", "text": f"more than {MOST_MEMORY:,} bytes of memory"}
    except Exception as error:  # a damaged pickle can raise anything
        return {"refused": "damaged", "text": f"{type(error).__name__}: {error}"[:400]}


def _limit() -> None:
    import resource

    # Not everywhere can the address space be limited; the time and the size of the pickle are limited besides.
    limits = {resource.RLIMIT_AS: MOST_MEMORY, resource.RLIMIT_CPU: MOST_SECONDS, resource.RLIMIT_CORE: 0}
    for kind, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _limit()
    told = guarded(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.buffer.write(json.dumps(told).encode())
    sys.stdout.flush()
    os._exit(0)  # taking apart what is nested deep could overflow the stack
