"""Logits that a linear layer returns: adding one number to all of them is a symmetry of a softmax loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.utils._pytree import tree_leaves

from weyl.structure import LogitShift
from weyl.trace._grade import Entry, Grader
from weyl.trace._values import Value

__all__ = ["find_logit_shifts"]


def find_logit_shifts(
    grader: Grader, log: Sequence[Entry], result: object, names: Mapping[int, str], uses: Mapping[str, int]
) -> tuple[LogitShift, ...]:
    """Linear layers whose rows are all the classes of what the model returns, and whose tensors nothing else reads."""
    found: list[LogitShift] = []
    for leaf in tree_leaves(result):
        if not isinstance(leaf, Value):
            continue
        scalars = {term.scalar for term in grader.get(leaf).terms or ()}
        for entry in log:
            call = entry.call
            if call is None or call.name != "linear" or entry.results[0] is None or call["weight"].ndim != 2:
                continue
            made = grader.get(entry.results[0])
            weight, bias = names.get(id(call["weight"])), names.get(id(call.get("bias")))
            alone = weight is not None and uses[weight] == 1 and (call.get("bias") is None or bias is not None)
            if (
                weight is None
                or not alone
                or (bias is not None and uses[bias] != 1)
                or {term.scalar for term in made.terms or ()} != scalars
                or leaf.shape[-1:] != made.shape[-1:]
            ):
                continue
            columns = call["weight"].shape[1]
            found.append(LogitShift(weight, bias or "", columns + (bias is not None)))
    return tuple(dict.fromkeys(found))
