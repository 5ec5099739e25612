"""Logits that a linear layer returns: adding one number to all of them is a symmetry of a softmax loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch.utils._pytree import tree_leaves

from weyl.structure import LogitShift
from weyl.trace._dead import Sources
from weyl.trace._grade import Entry, Grader
from weyl.trace._solve import ZERO
from weyl.trace._values import Value

__all__ = ["find_logit_shifts"]


def find_logit_shifts(
    grader: Grader,
    log: Sequence[Entry],
    result: object,
    sources: Sources,
    free: Collection[str],
    names: Mapping[int, str],
    uses: Mapping[str, int],
) -> tuple[LogitShift, ...]:
    """Linear layers whose rows are all the classes of what the model returns.

    Nothing else may read the logits, or the tensors of the layer, which must be ``free`` to change.
    """
    found: dict[LogitShift, None] = {}
    for leaf in tree_leaves(result):
        if not isinstance(leaf, Value) or leaf.ndim == 0 or leaf.shape[-1] < 2:
            continue
        logits = grader.get(leaf).terms or ()
        scalars = {term.scalar for term in logits}
        alone = all(len(sources.readers.get(scalar, ())) == 1 for scalar in scalars)
        if not scalars or ZERO in scalars or not alone:
            continue
        for entry in log:
            call = entry.call
            if call is None or call.name != "linear" or entry.results[0] is None or call["weight"].ndim != 2:
                continue
            made = grader.get(entry.results[0]).terms or ()
            if {t.scalar for t in made} != scalars or {t.strands[-1] for t in made} != {t.strands[-1] for t in logits}:
                continue
            shift = _shift(call["weight"], call.get("bias"), free, names, uses)
            if shift is not None:
                found[shift] = None
    return tuple(found)


def _shift(
    weight: Value, bias: object, free: Collection[str], names: Mapping[int, str], uses: Mapping[str, int]
) -> LogitShift | None:
    """The shift of one layer, if its tensors may change and nothing else reads them."""
    tensors = [names.get(id(tensor)) for tensor in (weight, bias) if isinstance(tensor, Value)]
    if any(name is None or name not in free or uses[name] != 1 for name in tensors):
        return None
    first, *rest = (name or "" for name in tensors)
    return LogitShift(first, rest[0] if rest else "", weight.shape[1] + len(rest))
