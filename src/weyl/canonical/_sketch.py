"""A short vector that says which orbit a state lies on: the same for all of an orbit, near for near states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions import act, check_state, check_structure
from weyl.canonical._coordinates import centred
from weyl.canonical._normal import normal_gauge
from weyl.canonical._sketch_features import CHANNELS, Probe, random_numbers
from weyl.canonical._sketch_limit import at_limit
from weyl.canonical._sketch_terms import terms_of
from weyl.errors import NotFiniteError, StructureError, UsageError
from weyl.structure import Structure, spaces_of

__all__ = ["sketch"]

# Numbers of unrelated states are of order 1; what all states of one task share can be far larger, and is bent down.
SHARED = 2.0
# Entries of fixed tensors count up to so many times the usual size of the largest of the others.
FAR = 8.0


def sketch(structure: Structure, state: Mapping[str, Tensor], dim: int = 256) -> Float[Tensor, " dim"]:
    r"""Summarise a state by a vector of unit length that no element of the symmetry group changes.

    Two states of one orbit have the same sketch, up to rounding; a small change of the state changes it little; and
    sketches of unrelated states are far apart. Compare them by Euclidean distance,
    :math:`\|a - b\| = \sqrt{2 - 2\cos}`: it is 0 for one orbit, about 1.4 for states that have nothing in common.

    Parameters
    ----------
    structure : Structure
        Of the model. Only sketches with one structure and one ``dim`` can be compared.
    state : mapping of str to tensor
        Whole state with finite entries; not changed.
    dim : int
        Length of the sketch.

    Returns
    -------
    Tensor
        Shape ``(dim,)``, float64, on the device of the state; the sum of squares is 1, or 0 if all numbers that a
        sketch reads vanish.

    Raises
    ------
    StructureError
        If it is not the state of the structure's model, a tensor is missing, or has no dense real numbers.
    NotFiniteError
        If a floating tensor of the structure has NaN or infinity.
    UsageError
        If ``dim`` is not a positive integer.

    Notes
    -----
    In the normal gauge every move that is left acts on units by permutations, signs, rotations and phases, which keep
    inner products. Units get 32 random features each: tensors are contracted with random vectors at positions that do
    not move, and with the features of other units; what is found moves and turns with the unit. A bounded odd function
    (of norms, where matrices mix) follows. This is done twice, with independent random vectors, once from the first
    space onwards, once from the last. Inner products of the two, summed over the units of a space, are invariant. They
    are projected to ``dim`` numbers by random signs. Random numbers are the same on every machine.

    Where a scale or a matrix has no normal gauge, since one side of a unit is zero, the limit is taken, in which both
    are. Tied tensors count once, copies of them as well; where only one was changed they are no longer tied, and
    the sketch is another. It is not injective: different orbits may have the same one.

    References
    ----------
    Random projections: Achlioptas, "Database-friendly random projections", 2003. Features that move with the units:
    Navon et al., "Equivariant architectures for learning in deep weight spaces", ICML 2023.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> nets = [nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)) for _ in range(2)]
    >>> structure = weyl.discover(nets[0], (torch.zeros(1, 4),))
    >>> a, b = (sketch(structure, net.state_dict(), 64) for net in nets)
    >>> twin = weyl.act(structure.group.random(seed=1), structure, nets[0].state_dict())
    >>> a.shape, bool((a - sketch(structure, twin, 64)).norm() < 1e-4), bool((a - b).norm() > 0.1)
    (torch.Size([64]), True, True)
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise UsageError(f"dim must be a whole number of at least 1, got {dim!r}")
    exact = at_limit(structure, _checked(structure, state))
    gauge = normal_gauge(structure, centred(structure, exact), ("scale", "mix", "translate"), shifts=False)
    normal = _bounded(structure, centred(structure, act(gauge, structure, exact)))
    found = Probe(structure, list(terms_of(structure, normal))).invariants()
    device = next(iter(exact.values())).device if exact else torch.device("cpu")
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    for key, values in found:
        values = values / (1 + (values / SHARED).square()).sqrt()
        total += values.to(device) @ random_numbers(f"project {key}", (CHANNELS, dim), device).sign()
    size = float(total.norm())
    return total / size if size > 0 else total


def _bounded(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What nothing moves, bounded by the usual size of what moves: a mask of -1e9 must not drown the weights."""
    moving = {name for name, axes in structure.axes.items() if any(True for axis in axes for _ in spaces_of(axis))}
    sizes = [state[name].square().mean().sqrt() for name in sorted(moving) if _counts(state[name])]
    if not sizes:
        return dict(state)
    bound = FAR * float(torch.stack([size.cpu() for size in sizes]).max())
    if not bound > 0:
        return dict(state)
    return {n: t if n in moving or not _counts(t) else t.clamp(-bound, bound) for n, t in state.items()}


def _counts(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


def _checked(structure: Structure, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the structure, floating ones in float64; what is tied is one tensor, also where it was copied."""
    check_structure(structure)
    check_state(structure, state, structure.axes)
    made: dict[object, Tensor] = {}
    alike: dict[object, list[Tensor]] = {}
    for name, axes in structure.axes.items():
        tensor = state[name]
        if tensor.is_meta or tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
            raise StructureError(f"{name!r} is no dense tensor of real numbers: load it, or convert it, to sketch it")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotFiniteError(f"{name!r} has entries that are not finite: it has no sketch")
        if tensor_identity(tensor) not in made:
            others = alike.setdefault((axes, structure.weights_by_tensor.get(name), tensor.dtype, tensor.device), [])
            # Vectors are often equal without being tied: all gains are 1 at first.
            twin = next((other for other in others if tensor.dim() > 1 and torch.equal(other, tensor)), None)
            others.append(tensor)
            double = tensor.detach().double() if tensor.is_floating_point() else tensor
            made[tensor_identity(tensor)] = double if twin is None else made[tensor_identity(twin)]
    return {name: made[tensor_identity(state[name])] for name in structure.axes}
