"""Files of weights beside a model: what fits, names that are one tensor, and hashes of files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from weyl._memory import tensor_identity
from weyl._text import expanded, one_line
from weyl.checkpoints import OpenWeights, TensorInfo
from weyl.checkpoints._index import read_index
from weyl.checkpoints._opened import OpenFile
from weyl.checkpoints._place import locate, sniff
from weyl.checkpoints._stored import as_bytes
from weyl.errors import UsageError

__all__ = ["Streamed", "known_names", "misfit", "refuse_empty", "sha256_of", "ties_of", "with_ties"]

SHOWN = 3
CHUNK = 2**20


def refuse_empty(files: tuple[Path, ...]) -> None:
    """Refuse a name that is empty, which a path turns into the current folder."""
    if any(str(file).strip() in ("", ".") for file in files):
        raise UsageError("a file of weights is empty or the current folder; name a file")


def ties_of(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Names of a state dict that are one tensor in the model."""
    found: dict[object, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        # On the meta device nothing has a place in memory, but a tied parameter is one object.
        found.setdefault(id(tensor) if tensor.is_meta else tensor_identity(tensor), []).append(name)
    return tuple(tuple(names) for names in found.values() if len(names) > 1)


def known_names(module: nn.Module, given: Collection[str]) -> tuple[dict[str, str], str]:
    """Names of a file under the names that a model has for them, and what must be said of that.

    A checkpoint of a model without its head often lacks the prefix that the model with a head has, or has one that the
    model does not have. Buffers that transformers ignores in a file are left out.

    Parameters
    ----------
    module : nn.Module
        The model.
    given : collection of str
        Names of the file.

    Returns
    -------
    dict of str to str
        From the model's name to the file's.
    str
        Empty where names are as they were.

    Examples
    --------
    >>> known_names(nn.Sequential(nn.Linear(2, 1)), ["weight", "bias"])
    ({'0.weight': 'weight', '0.bias': 'bias'}, 'put 0. before every name')
    """
    own = module.state_dict().keys()
    ignored = [re.compile(pattern) for pattern in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    ways: list[tuple[dict[str, str], str]] = [({name: name for name in given}, "")]
    for prefix in _first_parts(own):
        ways.append(({prefix + name: name for name in given}, f"put {one_line(prefix, 60)} before every name"))
    for prefix in _first_parts(given):
        shorter = {name.removeprefix(prefix): name for name in given}
        if len(shorter) == len(given):
            ways.append((shorter, f"removed {one_line(prefix, 60)} from names"))
    # Names as they are win over as many others.
    found, note = max(ways, key=lambda way: len(own & way[0].keys()))
    unknown = {name for name in found.keys() - own if any(pattern.search(name) for pattern in ignored)}
    return {name: source for name, source in found.items() if name not in unknown}, note


def _first_parts(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(f"{head}." for name in names for head, dot, _ in [name.partition(".")] if dot))


def with_ties(state: Mapping[str, Tensor], ties: tuple[tuple[str, ...], ...]) -> dict[str, Tensor]:
    """A state dict in which names that the model ties stand for those that are missing."""
    full = dict(state)
    for names in ties:
        given = next((name for name in names if name in state), None)
        if given is not None:
            full |= {name: state[given] for name in names if name not in state}
    return full


def misfit(module: nn.Module, infos: Mapping[str, TensorInfo]) -> str:
    """Say why tensors are not a whole state of a model; empty if they are.

    Parameters
    ----------
    module : nn.Module
        Not changed.
    infos : mapping of str to TensorInfo
        Of a file, names that the model ties filled in.
    """
    own = module.state_dict()
    wrong = [
        f"{one_line(name, 60)} {_told(infos[name])}, not {_told(TensorInfo.of(tensor))}"
        for name, tensor in own.items()
        if name in infos and _kind(infos[name]) != _kind(TensorInfo.of(tensor))
    ]
    parts = [
        _some("missing", [one_line(name, 60) for name in own if name not in infos]),
        _some("unexpected", [one_line(name, 60) for name in infos if name not in own]),
        _some("of another shape or type", wrong),
    ]
    return "; ".join(filter(None, parts))


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hex; of weights in several files, that of the list of their hashes."""
    place = locate(expanded(file), [])
    if sniff(place, []) != "index":
        return _sha256(place)
    opened = OpenFile(place)
    try:
        pieces = sorted(set(read_index(opened).values()))
    finally:
        opened.close()
    lines = (f"{_sha256(place.parent / piece)}  {piece}\n" for piece in pieces)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Streamed(Mapping[str, Tensor]):
    """An open file as a state of a model: read one tensor at a time, names that the model ties being one.

    Parameters
    ----------
    opened : OpenWeights
        The file.
    module : nn.Module
        The model. Names that are one tensor in it are one here, unless they have different numbers in the file.
    progress : callable
        Called with the number of bytes that were read.
    """

    def __init__(
        self, opened: OpenWeights, module: nn.Module, progress: Callable[[int], None] = lambda n: None
    ) -> None:
        self._opened, self._progress = opened, progress
        self._source, self.note = known_names(module, opened)
        self.broken: list[tuple[str, ...]] = []
        for names in ties_of(module):
            self._tie(names)
        # Tied names are recognised by their memory, of which there need be no more than one entry.
        self._stand_ins: dict[str, Tensor] = {}

    def _tie(self, names: tuple[str, ...]) -> None:
        given = [name for name in names if name in self._source]
        if not given:
            return
        same = len(given) == 1 or len({self._digest(self._source[name]) for name in given}) == 1
        if not same:
            self.broken.append(tuple(given))
        self._source |= {name: self._source[given[0]] for name in names if same or name not in given}

    def _digest(self, name: str) -> tuple[TensorInfo, str]:
        return self._opened.info(name), hashlib.sha256(as_bytes(self._opened[name])).hexdigest()

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Type and shape of every tensor."""
        return {name: self._opened.info(source) for name, source in self._source.items()}

    def peek(self, name: str) -> Tensor:
        """A tensor of the same type and shape whose numbers mean nothing; the same one for tied names."""
        source = self._source[name]
        if source not in self._stand_ins:
            info = self._opened.info(source)
            self._stand_ins[source] = torch.empty((), dtype=info.dtype).expand(info.shape)
        return self._stand_ins[source]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._opened[self._source[name]]
        self._progress(tensor.nbytes)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def _sha256(path: Path) -> str:
    opened, whole = OpenFile(path), hashlib.sha256()
    try:
        for begin in range(0, opened.size, CHUNK):
            whole.update(opened.read(begin, min(CHUNK, opened.size - begin)))
    finally:
        opened.close()
    return whole.hexdigest()


def _kind(info: TensorInfo) -> tuple[object, ...]:
    return info.shape, info.dtype.is_floating_point


def _told(info: TensorInfo) -> str:
    return f"{info.shape} {str(info.dtype).removeprefix('torch.')}"


def _some(what: str, names: list[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names):,} {what} ({', '.join(names[:SHOWN])}{more})" if names else ""
