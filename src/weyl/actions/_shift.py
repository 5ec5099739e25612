"""Adding one number to all logits: a symmetry of the softmax loss that is none of the function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weyl.actions._state import check_floating, check_seed, check_state
from weyl.errors import StructureError
from weyl.structure import Structure

__all__ = ["shift_logits"]


def shift_logits(structure: Structure, state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Add the same random function of the features to all logits; probabilities of a softmax stay.

    Parameters
    ----------
    structure : Structure
        With at least one of ``structure.logit_shifts``.
    state : mapping of str to tensor
        State dict; not changed.
    seed : int
        Of a private generator: a standard normal vector for all rows of the weight, a number for the bias.

    Returns
    -------
    dict of str to tensor
        Logits differ, their differences do not (Lemma 1 of E and Wojtowytsch: the loss is invariant under z + λ1).

    Raises
    ------
    StructureError
        If the last layer is none whose logits can be shifted, the state is not that of the structure's model, or a
        tensor of the layer is missing or not floating.
    UsageError
        If the seed is not a non-negative integer.

    References
    ----------
    E, Wojtowytsch, "On the emergence of simplex symmetry in the final and penultimate layers of neural network
    classifiers", arXiv 2012.05420, Lemma 1.

    Examples
    --------
    >>> import weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> x = torch.ones(1, 4)
    >>> shifted = shift_logits(weyl.discover(net, (x,)), net.state_dict())
    >>> before, after = net(x), torch.func.functional_call(net, shifted, (x,))
    >>> torch.allclose(before, after), torch.allclose(before.softmax(1), after.softmax(1), atol=1e-6)
    (False, True)
    """
    check_state(structure, state)
    check_seed(seed)
    if not structure.logit_shifts:
        raise StructureError("no logits to shift: the model does not end in a linear layer of its own")
    generator = torch.Generator().manual_seed(seed)
    out = dict(state)
    for shift in structure.logit_shifts:
        names = [name for name in (shift.weight, shift.bias) if name]
        check_state(structure, state, names)
        check_floating(state, names)
        weight = state[shift.weight]
        row = torch.randn(weight.shape[1], generator=generator, dtype=torch.float64)
        out[shift.weight] = weight + row.to(weight)
        number = torch.randn((), generator=generator, dtype=torch.float64)
        if shift.bias:
            out[shift.bias] = state[shift.bias] + number.to(state[shift.bias])
    return out
