"""Linear assignment: a library's solver, spared where a row-wise maximum is already a permutation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weyl.errors import NotFiniteError

__all__ = ["assign"]


def assign(values: Float[Tensor, "n n"]) -> NDArray[np.int64]:
    """The permutation p that maximises ``sum_i values[i, p[i]]``.

    Parameters
    ----------
    values : Tensor, shape (n, n)
        Finite: some solvers return a permutation for NaN.

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
    # Where every row has its largest value in a column of its own, nothing can be better.
    best = values.argmax(1)
    found = best.cpu().numpy()
    if np.bincount(found, minlength=len(found)).max(initial=0) == 1 and bool(values.isfinite().all()):
        return found
    array = values.detach().cpu().numpy()
    if not np.isfinite(array).all():
        raise NotFiniteError("the costs of an assignment are not finite: the states have NaN, infinity or huge entries")
    return np.asarray(linear_sum_assignment(array, maximize=True)[1])
