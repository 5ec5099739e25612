"""Weights into a model: they fit, or the difference is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from weyl._memory import tensor_identity
from weyl._text import one_line
from weyl.errors import InputError, MismatchError

__all__ = ["load_into"]

SHOWN = 3
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)


def load_into(model: nn.Module, state: Mapping[str, Tensor], name: str = "the weights") -> tuple[str, ...]:
    """Load weights into a model, in place, if names and shapes are the model's; otherwise leave it as it was.

    Parameters
    ----------
    model : nn.Module
        Changed in place. Of parameters that are one tensor under several names, one name suffices.
    state : mapping of str to Tensor
        As from `load_weights`.
    name : str
        What to call the weights in a message.

    Returns
    -------
    tuple of str
        What a reader must know: a tie of the model that the weights break, and weights in few bits, with the
        largest relative step between neighbouring normal numbers of their type.

    Raises
    ------
    InputError
        If the weights are quantised to integers.
    MismatchError
        If a name is missing or unexpected, or a shape or kind of number differs; exit code 1, with a diff.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> load_into(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    ()
    >>> load_into(layer, {"weight": torch.ones(1, 3)})
    Traceback (most recent call last):
    weyl.errors.MismatchError: the weights and the model do not fit: 1 missing (bias); 1 of ...
    """
    own = model.state_dict(keep_vars=True)
    ties: dict[tuple[object, ...], list[str]] = {}
    for title, tensor in own.items():
        ties.setdefault(tensor_identity(tensor), []).append(title)
    tied = {title: names for names in ties.values() for title in names}
    missing = [title for title in own if not any(other in state for other in tied[title])]
    unexpected = [title for title in state if title not in own]
    wrong = [
        f"{one_line(title, 60)} {_shape(state[title])}, not {_shape(tensor)}"
        for title, tensor in own.items()
        if title in state and _kind(state[title]) != _kind(tensor)
    ]
    _refuse_integers(state, own, name)
    if missing or unexpected or wrong:
        parts = [
            _some(len(missing), "missing", (one_line(t, 60) for t in missing)),
            _some(len(unexpected), "unexpected", (one_line(t, 60) for t in unexpected)),
            _some(len(wrong), "of another shape or type", wrong),
        ]
        raise MismatchError(
            f"{name} and the model do not fit: {'; '.join(filter(None, parts))}; name the model that was trained"
        )
    coarse = tuple(f"{name}: {note}" for note in _coarse(state, own))
    model.load_state_dict(dict(state), strict=False)
    broken = [
        names
        for names in ties.values()
        if len(given := [state[title] for title in names if title in state]) > 1
        and any(not torch.equal(given[0], other) for other in given[1:])
    ]
    return coarse + tuple(
        f"{name}: {one_line(' and '.join(names), 160)} have different values, which the model ties; it has"
        " those of the last"
        for names in broken
    )


def _refuse_integers(state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Refuse quantised weights, which are integers and need scales that are kept elsewhere."""
    for title, tensor in state.items():
        if title in own and own[title].is_floating_point() and tensor.dtype in INTEGERS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"{name}: {one_line(title, 60)} holds {dtype} integers where the model has numbers: quantised weights"
                " are not read; give the weights that they were made from"
            )


def _coarse(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say which weights have fewer bits than the model, or more than a model of few bits."""
    pairs: dict[tuple[torch.dtype, torch.dtype], int] = {}
    for title, tensor in state.items():
        if tensor.is_floating_point() and tensor.dtype != own[title].dtype:
            pair = tensor.dtype, own[title].dtype
            pairs[pair] = pairs.get(pair, 0) + 1
    found = []
    for (given, kept), count in pairs.items():
        coarser = max(torch.finfo(given), torch.finfo(kept), key=lambda info: info.eps)
        if coarser.eps > torch.finfo(torch.float32).eps:
            given_name, kept_name = (str(dtype).removeprefix("torch.") for dtype in (given, kept))
            found.append(
                f"{count} of {len(state)} tensors are {given_name} and the model is {kept_name}: neighbouring numbers"
                f" of {coarser.dtype} are up to {100 * coarser.eps:.3g} % apart, and more below {coarser.tiny:.2g}"
            )
    return found


def _kind(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(count: int, what: str, shown: Iterable[str]) -> str:
    if not count:
        return ""
    first = [text for _, text in zip(range(SHOWN), shown, strict=False)]
    more = ", …" if count > SHOWN else ""
    return f"{count} {what} ({', '.join(first)}{more})"
