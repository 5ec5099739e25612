"""What an objective is a sum of: inner products of two arrays over units, one of which moves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Moments", "Pair", "Term"]

Axes = tuple[str | None, ...]


@dataclass(eq=False)
class Term(ABC):
    """One summand of the objective: ``sum_u <a_u, b_u>`` over all units u, of which those of b move.

    Parameters
    ----------
    axes : tuple of str or None
        The space of every axis of units; None for positions that do not move.
    source : str
        The tensor that it comes from.
    """

    axes: Axes
    source: str

    @abstractmethod
    def inner(self) -> float:
        """The inner product, accumulated in float64."""

    @abstractmethod
    def gram(self, axis: int, outer: Sequence[int]) -> Float[Tensor, "*outer n n"]:
        """Inner products of unit i of a with unit j of b along an axis, all other axes aligned as they are."""

    @abstractmethod
    def diagonal(self, axis: int, outer: Sequence[int]) -> Float[Tensor, "*outer n"]:
        """The diagonal of the Gram: what every unit gives where it is."""

    @abstractmethod
    def joint(self, axis: int, inner: int) -> Float[Tensor, "n m n m"]:
        """Inner products of every (unit, inner unit) of a with every one of b."""

    @abstractmethod
    def clone(self) -> Term:
        """The same, with a b of its own."""

    @abstractmethod
    def negate(self) -> None:
        """Let b become -b."""

    @abstractmethod
    def restore(self, saved: Term) -> None:
        """Take b back from a clone."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """In which products are computed."""

    @abstractmethod
    def select(self, axis: int, i: int, j: int) -> Term:
        """The term of one unit of a and one of b along an axis; a view."""

    @abstractmethod
    def permute(self, axis: int, outer: Sequence[int], permutation: Tensor) -> None:
        """Let ``b[o, i]`` become ``b[o, permutation[o, i]]``, in place."""

    @abstractmethod
    def multiply(self, axis: int, outer: Sequence[int], factors: Tensor) -> None:
        """Let ``b[o, i]`` become ``factors[o, i] * b[o, i]``, in place."""

    @abstractmethod
    def mix(self, axis: int, outer: Sequence[int], matrices: Tensor) -> None:
        """Let ``b[o]`` become ``matrices[o] @ b[o]``, in place."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the arrays are."""

    def outer(self, within: Sequence[str], axis: int) -> list[int]:
        """The axes of the spaces that the space of an axis lives within."""
        return [next(at for at, name in enumerate(self.axes) if name == outer and at != axis) for outer in within]


@dataclass(eq=False)
class Pair(Term):
    """Two tensors, or the same block of two, with one axis for every factor.

    Parameters
    ----------
    a, b : Tensor
        Views with one axis for every entry of ``axes``; b is written to.
    """

    a: Tensor
    b: Tensor

    @property
    def device(self) -> torch.device:
        return self.b.device

    def inner(self) -> float:
        if self.a.dtype == torch.float64:
            return float((self.a * self.b).sum())
        return float((self.a * self.b).sum(dtype=torch.float64))

    def gram(self, axis: int, outer: Sequence[int]) -> Tensor:
        return gram(self.a, self.b, axis, outer)

    @property
    def dtype(self) -> torch.dtype:
        return self.b.dtype

    def diagonal(self, axis: int, outer: Sequence[int]) -> Tensor:
        front = (*outer, axis)
        both = (self.a * self.b).permute(*front, *(at for at in range(self.b.dim()) if at not in front))
        return both.flatten(len(front)).sum(-1) if both.dim() > len(front) else both

    def joint(self, axis: int, inner: int) -> Tensor:
        front = (axis, inner)
        rest = [at for at in range(self.b.dim()) if at not in front]
        n, m = self.b.shape[axis], self.b.shape[inner]
        left, right = (x.permute(*front, *rest).reshape(n * m, -1) for x in (self.a, self.b))
        return (left @ right.mT).view(n, m, n, m)

    def clone(self) -> Pair:
        return Pair(self.axes, self.source, self.a, self.b.clone())

    def negate(self) -> None:
        self.b.neg_()

    def restore(self, saved: Term) -> None:
        assert isinstance(saved, Pair)
        self.b.copy_(saved.b)

    def select(self, axis: int, i: int, j: int) -> Pair:
        return Pair(_without(self.axes, axis), self.source, self.a.select(axis, i), self.b.select(axis, j))

    def permute(self, axis: int, outer: Sequence[int], permutation: Tensor) -> None:
        if outer:
            index = _broadcast(permutation, self.b.dim(), axis, outer).expand(self.b.shape)
            self.b.copy_(torch.take_along_dim(self.b, index, axis))
        else:
            moved = (permutation != torch.arange(len(permutation), device=permutation.device)).nonzero().flatten()
            if 4 * len(moved) > len(permutation):
                self.b.copy_(self.b.index_select(axis, permutation))
            else:
                self.b.index_copy_(axis, moved, self.b.index_select(axis, permutation[moved]))

    def multiply(self, axis: int, outer: Sequence[int], factors: Tensor) -> None:
        self.b.mul_(_broadcast(factors, self.b.dim(), axis, outer).to(self.b.dtype))

    def mix(self, axis: int, outer: Sequence[int], matrices: Tensor) -> None:
        moved = self.b.movedim((*outer, axis), tuple(range(len(outer) + 1)))
        flat = moved.reshape(*moved.shape[: len(outer) + 1], -1)
        moved.copy_((matrices.to(flat.dtype) @ flat).reshape(moved.shape))


@dataclass(eq=False)
class Moments(Term):
    """Cross-moments of features: every unit of a against every unit of b, as they were measured.

    Parameters
    ----------
    c : Tensor
        One axis for every entry of ``axes``, for the units of a, and then as many again for those of b; written to.
    """

    c: Tensor

    @property
    def device(self) -> torch.device:
        return self.c.device

    def inner(self) -> float:
        rank = len(self.axes)
        size = math.prod(self.c.shape[:rank])
        return float(self.c.reshape(size, size).diagonal().sum(dtype=torch.float64))

    def gram(self, axis: int, outer: Sequence[int]) -> Tensor:
        rank = len(self.axes)
        ours, theirs = list(range(rank)), list(range(rank))
        theirs[axis] = rank
        # A copy: without a sum, einsum returns a view, and Grams are kept and added to.
        return torch.einsum(self.c, [*ours, *theirs], [*outer, axis, rank]).clone()

    @property
    def dtype(self) -> torch.dtype:
        return self.c.dtype

    def diagonal(self, axis: int, outer: Sequence[int]) -> Tensor:
        rank = list(range(len(self.axes)))
        return torch.einsum(self.c, [*rank, *rank], [*outer, axis]).clone()

    def joint(self, axis: int, inner: int) -> Tensor:
        rank = len(self.axes)
        theirs = list(range(rank))
        theirs[axis], theirs[inner] = rank, rank + 1
        return torch.einsum(self.c, [*range(rank), *theirs], [axis, inner, rank, rank + 1])

    def clone(self) -> Moments:
        return Moments(self.axes, self.source, self.c.clone())

    def negate(self) -> None:
        self.c.neg_()

    def restore(self, saved: Term) -> None:
        assert isinstance(saved, Moments)
        self.c.copy_(saved.c)

    def select(self, axis: int, i: int, j: int) -> Moments:
        chosen = self.c.select(len(self.axes) + axis, j).select(axis, i)
        return Moments(_without(self.axes, axis), self.source, chosen)

    def _lift(self, axis: int, outer: Sequence[int]) -> tuple[int, list[int]]:
        """The axes of b."""
        rank = len(self.axes)
        return rank + axis, [rank + at for at in outer]

    def permute(self, axis: int, outer: Sequence[int], permutation: Tensor) -> None:
        axis, outer = self._lift(axis, outer)
        index = _broadcast(permutation, self.c.dim(), axis, outer).expand(self.c.shape)
        self.c.copy_(torch.take_along_dim(self.c, index, axis))

    def multiply(self, axis: int, outer: Sequence[int], factors: Tensor) -> None:
        self.c.mul_(_broadcast(factors, self.c.dim(), *self._lift(axis, outer)).to(self.c.dtype))

    def mix(self, axis: int, outer: Sequence[int], matrices: Tensor) -> None:
        axis, outer = self._lift(axis, outer)
        moved = self.c.movedim((*outer, axis), tuple(range(len(outer) + 1)))
        flat = moved.reshape(*moved.shape[: len(outer) + 1], -1)
        moved.copy_((matrices.to(flat.dtype) @ flat).reshape(moved.shape))


def gram(a: Tensor, b: Tensor, axis: int, outer: Sequence[int] = ()) -> Float[Tensor, "*outer n n"]:
    """Inner products of the slices of two arrays along an axis, for every setting of some outer axes.

    One matrix product, of views where the layout allows it.
    """
    front = (*outer, axis)
    rest = [at for at in range(a.dim()) if at not in front]
    if not rest:
        return a.permute(front)[..., :, None] * b.permute(front)[..., None, :]
    if not outer and axis == a.dim() - 1:
        # Rows are units already: the same product without a copy.
        return a.reshape(-1, a.shape[-1]).mT @ b.reshape(-1, b.shape[-1])
    shape = (*(a.shape[at] for at in front), -1)
    left = a.permute(*front, *rest).reshape(shape)
    right = b.permute(*front, *rest).reshape(shape)
    return left @ right.mT


def _broadcast(values: Tensor, rank: int, axis: int, outer: Sequence[int]) -> Tensor:
    """Values of shape ``(*outer, n)`` with their axes where an array of some rank has them, others of length 1."""
    places = [*outer, axis]
    order = sorted(range(len(places)), key=places.__getitem__)
    shape = [1] * rank
    for at, size in zip(places, values.shape, strict=True):
        shape[at] = size
    return values.permute(order).reshape(shape)


def _without(axes: Axes, axis: int) -> Axes:
    return (*axes[:axis], *axes[axis + 1 :])
