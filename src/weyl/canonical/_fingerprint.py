"""``fingerprint``: one hash for all members of an orbit under permutations and signs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions import Mover, check_state, check_structure
from weyl.canonical._digest import PIECE, digest
from weyl.canonical._labelling import Labelling, label
from weyl.canonical._normal import restricted
from weyl.errors import StructureError
from weyl.groups import GaugeKind
from weyl.orbits import finite_part
from weyl.structure import Structure

__all__ = ["COUNTER", "exact_part", "fingerprint", "labelled", "shapes_of"]

# Of batches during training, which nothing is computed from.
COUNTER = "num_batches_tracked"


def fingerprint(structure: Structure, state: Mapping[str, Tensor]) -> str:
    """A hash that all members of one orbit share: a permuted copy, and one with flipped signs, have the same.

    It is SHA-256 over the normal form of :func:`weyl.canonicalize` under permutations and signs, which is bit-exact;
    two states have one fingerprint if, and but for collisions of SHA-256 only if, some permutation with signs makes one
    of the other.

    Parameters
    ----------
    structure : Structure
        Of the model that the state belongs to.
    state : mapping of str to Tensor
        All tensors of the structure; any dtype, any device. One that reads tensors when they are asked for will do:
        each is asked for a few times, and one is held at a time. Names that the structure does not know, and
        counters of batches, do not count.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    StructureError
        If a tensor is missing or has another shape than the structure says.
    NotFiniteError
        If an entry is NaN or infinite.
    LimitError
        If units that contents do not tell apart are too many for the search.

    Notes
    -----
    -0.0 counts as 0.0. The dtype counts: a state in another precision is another one. Scales, rotations and other
    continuous symmetries leave rounding behind, so no hash is invariant under them: :func:`weyl.sketch` and
    :func:`weyl.compare` are. For the same reason flips of activations that are odd about a point other than 0
    (sigmoids) are left out. Matrix groups count with the permutations and signs in them.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> twin = weyl.act(structure.group.random(seed=1), structure, net.state_dict())
    >>> fingerprint(structure, twin) == fingerprint(structure, net.state_dict())
    True
    >>> twin["0.bias"] = twin["0.bias"] * 1.0000001
    >>> fingerprint(structure, twin) == fingerprint(structure, net.state_dict())
    False
    """
    check_structure(structure)
    finite = exact_part(structure)
    shapes, sources = shapes_of(structure, state)
    mover = Mover(labelled(finite, state, shapes, counted=False).element, finite)
    return digest(sources, state.__getitem__, partial(mover.pieces, entries=PIECE))


def exact_part(structure: Structure) -> Structure:
    """The structure with its permutations and those signs that leave no rounding."""
    finite = finite_part(structure)
    return restricted(finite, lambda g: g.kind is GaugeKind.SIGN and g.name not in structure.absorptions)


def shapes_of(structure: Structure, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a structure on the meta device, tied ones once; and by every name, in order, that of its tensor.

    Counters of batches are left out.

    Raises
    ------
    StructureError
        If one is missing, or has another shape than the structure says.
    """
    if not isinstance(state, Mapping):
        raise StructureError(f"expected a state dict of tensors, got {type(state).__name__}: pass model.state_dict()")
    peek: Callable[[str], Tensor] = getattr(state, "peek", state.__getitem__)
    missing = [name for name in structure.axes if name not in state]
    if missing:
        raise StructureError(f"the state has no tensor {missing[0]!r}: pass the whole state dict")
    found = {name: peek(name) for name in structure.axes}
    for name, tensor in found.items():
        # One that is still to be read is looked at when it is.
        if not (tensor.is_meta and hasattr(state, "peek")):
            _dense(name, tensor)
    check_state(structure, found)
    distinct: dict[object, str] = {}
    sources = {}
    for name, tensor in sorted(found.items()):
        if not name.endswith(COUNTER):
            # Tensors that are read when asked for are on the meta device, where none is another.
            identity = name if tensor.is_meta else tensor_identity(tensor)
            key = (identity, structure.axes[name], structure.weights_by_tensor.get(name))
            sources[name] = distinct.setdefault(key, name)
    return {name: torch.empty_like(found[name], device="meta") for name in distinct.values()}, sources


def labelled(
    finite: Structure,
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Tensor],
    tolerances: Mapping[str, float] | None = None,
    *,
    counted: bool = True,
) -> Labelling:
    """Label the units of a state, the tensors read one at a time; see :func:`label`."""
    return label(finite, _Reader(state), shapes, tolerances=tolerances, counted=counted)


class _Reader:
    """Gives tensors by name; one that is read from a file is kept until another is asked for."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self._last: tuple[str, Tensor] | None = None

    def __call__(self, name: str) -> Tensor:
        if self._last is None or self._last[0] != name:
            self._last = None
            self._last = (name, _dense(name, self._state[name]))
        return self._last[1]


def _dense(name: str, tensor: Tensor) -> Tensor:
    """Refuse a tensor of which no entries can be compared."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise StructureError(f"{name!r} is no dense tensor of real numbers: load it, or convert it")
    return tensor
