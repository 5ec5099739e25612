"""Linear assignment: a library's solver, given prices to start from, and spared where they already decide."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from weyl.errors import NotFiniteError

__all__ = ["Prices", "assign"]

Floats = NDArray[np.float64]

# Rounds in which prices are improved after an assignment: they need not be exact, only near.
ROUNDS = 3


class Prices:
    """What the columns of an assignment cost, kept from one problem to the next that resembles it.

    A number that is taken from all entries of a column, or of a row, changes no assignment's rank among others. A
    solver by shortest augmenting paths starts from prices of zero; from those of the last solution, most rows find
    their column at once.
    """

    def __init__(self) -> None:
        self._columns: Floats | None = None

    def reduced(self, costs: Floats) -> Floats:
        """Costs less prices, with a zero in every row and column and nothing below."""
        if self._columns is None:
            self._columns = costs.mean(0) - costs.mean()
        left = costs - self._columns
        left -= left.min(1, keepdims=True)
        least = left.min(0)
        self._columns = self._columns + least
        left -= least
        return left

    def learn(self, costs: Floats, found: NDArray[np.int64]) -> None:
        """Move prices towards those at which nobody prefers another column than the one that was assigned.

        They are lengths of shortest paths, by the method of Bellman and Ford, cut short.
        """
        assert self._columns is not None
        by_column = costs.astype(np.float32)[np.argsort(found)]
        by_column -= by_column.diagonal().copy()[:, None]
        offers = np.empty_like(by_column)
        prices = self._columns.astype(np.float32)
        for _ in range(ROUNDS):
            np.add(by_column, prices[:, None], out=offers)
            better = np.minimum(prices, offers.min(0))
            if np.array_equal(better, prices):
                break
            prices = better
        self._columns = (prices - prices.mean()).astype(np.float64)

    def permute(self, permutation: NDArray[np.int64]) -> None:
        """Let prices follow their columns."""
        if self._columns is not None:
            self._columns = self._columns[permutation]


def assign(values: Float[Tensor, "n n"], prices: Prices | None = None) -> NDArray[np.int64]:
    """The permutation p that maximises ``sum_i values[i, p[i]]``.

    Parameters
    ----------
    values : Tensor, shape (n, n)
        Finite: some solvers return a permutation for NaN.
    prices : Prices, optional
        Of a problem that this one resembles; changed. They make it faster and nothing else.

    Returns
    -------
    int64 array, shape (n,)

    Raises
    ------
    NotFiniteError
        If a value is NaN or infinite.

    References
    ----------
    Crouse, "On implementing 2D rectangular assignment algorithms", 2016, as scipy implements it.

    Examples
    --------
    >>> import torch
    >>> assign(torch.tensor([[1.0, 5.0], [4.0, 6.0]])).tolist()
    [1, 0]
    """
    array = values.detach().cpu().numpy()
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise NotFiniteError("the costs of an assignment are not finite: the states have NaN, infinity or huge entries")
    # Where every row has its largest value in a column of its own, nothing can be better.
    best = array.argmax(1)
    if _is_permutation(best):
        return best
    # One thread, and no tensors: these are small, and threads that wait for each other would cost more.
    costs = np.negative(array, dtype=np.float64)
    known = Prices() if prices is None else prices
    left = known.reduced(costs)
    found = left.argmin(1)
    if not _is_permutation(found):
        found = solve(left)
    if prices is not None:
        prices.learn(costs, found)
    return found


def _scipy(costs: Floats) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(costs)[1])


def _lapcpp(costs: Floats) -> NDArray[np.int64]:
    import lapcpp

    return np.asarray(lapcpp.lapjv(costs, return_cost=False)[1], dtype=np.int64)


# The same optimum from either, of which the second is two to three times as fast and an extra: ``weyl[fast]``.
solve: Callable[[Floats], NDArray[np.int64]] = _lapcpp if importlib.util.find_spec("lapcpp") else _scipy


def _is_permutation(found: NDArray[np.int64]) -> bool:
    return bool(np.bincount(found, minlength=len(found)).max(initial=0) <= 1)
