"""``compare``: whether one network is the other, in disguise, or was made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from weyl.actions import check_seed, check_structure
from weyl.errors import StructureError, UsageError
from weyl.identity._comparison import Comparison
from weyl.identity._shared import shared_part
from weyl.identity._work import ENOUGH, Work
from weyl.proof import Agreement, same_outputs
from weyl.structure import Structure

__all__ = ["compare"]

State = Mapping[str, Tensor]
Progress = Callable[[str], None]

# Chance of independent trainings to be called related.
ALPHA = 1e-6
# Change of the outputs, relative to the largest, that is no matter of precision any more.
COARSE = 0.1


def compare(
    structure: Structure,
    a: State,
    b: State,
    *,
    model: nn.Module | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    alpha: float = ALPHA,
    align: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    r"""Decide what two states of one architecture are to each other, whatever symmetry hides it.

    First numbers are compared, then normal forms under permutations and signs, bit for bit; then under the whole group,
    up to rounding. If none of these shows a copy, two matchings of the units of every space that use disjoint tensors
    are compared: for networks that were trained apart they have nothing to do with each other, whatever the labelling
    (:func:`weyl.identity.evidence`). If they agree more than chance allows, the states are aligned, and it is looked at
    whether rounding to a coarser format explains what is left.

    Parameters
    ----------
    structure : Structure
        Of the model of both states, or of one of them: where they differ (a head that was replaced, a vocabulary
        that was resized, layers that were dropped), what they share is compared.
    a, b : mapping of str to tensor
        State dicts; neither is changed.
    model : nn.Module, optional
        Then the outputs of both states are compared, too, on inputs; its own weights are not used.
    args, kwargs, output
        Inputs of the model, and what of its result counts, as in :func:`weyl.discover`.
    alpha : float
        Independent trainings are called derived with at most this probability.
    align : bool
        Whether states that are derived are aligned, by assignments; otherwise `element` is the identity.
    seed : int
        Of the relabellings within the tests.
    progress : callable, optional
        Called with one line of text now and then.

    Returns
    -------
    Comparison

    Raises
    ------
    MismatchError
        If the states share no tensor with the structure.
    StructureError
        If they are no state dicts.
    UsageError
        If ``alpha`` is not between 0 and 1.

    Notes
    -----
    "unrelated" says that the test saw nothing: networks of few units may be related all the same, and the evidence
    says how many there were. The same data alone does not make two trainings related.

    References
    ----------
    Zhu et al., "Independence tests for language models", 2025, for the statistics. Zeng et al., "HuRef", NeurIPS 2024,
    for invariants of attention.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(9, 64), nn.GELU(), nn.Linear(64, 9))
    >>> structure = weyl.discover(net, (torch.zeros(1, 9),))
    >>> twin = weyl.act(structure.group.random(seed=1), structure, net.state_dict())
    >>> compare(structure, net.state_dict(), twin).verdict
    'same function'
    >>> noisy = {name: tensor + 1e-3 * torch.randn(tensor.shape) for name, tensor in twin.items()}
    >>> compare(structure, net.state_dict(), noisy).verdict
    'derived'
    """
    check_structure(structure)
    check_seed(seed)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha!r}")
    for state in (a, b):
        if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise StructureError(
                f"expected state dicts of tensors, got {type(state).__name__}: pass model.state_dict()"
            )
    job = Work(shared_part(structure, a, b), progress or (lambda text: None), alpha, seed)
    found = job.verdict(align=align)
    # Tensors that the structure does not know are listed, but the model does not read them.
    whole = dict(job.structure.axes) == dict(structure.axes)
    if found.same and not whole and job.informative() < ENOUGH:
        why = "what both have is too little to say anything, although it is the same"
        found = replace(found, verdict="inconclusive", reasons=(why, *found.reasons))
    if found.same and not whole:
        why = "what both have is the same, but they are not the same as a whole"
        found = replace(found, verdict="derived", reasons=(why, *found.reasons))
    if model is not None and whole and found.verdict != "inconclusive":
        job.say("comparing outputs")
        agreement = same_outputs(model, structure, a, b, args, kwargs, output, seed=seed)
        found = _with_outputs(found, agreement)
    return found


def _with_outputs(found: Comparison, agreement: Agreement) -> Comparison:
    """The verdict after a look at what the model returns."""
    if found.verdict in ("identical", "same function"):
        if not agreement.same:
            why = f"the weights look like a copy, but outputs differ by {agreement.error:.1e} of the largest"
            return replace(found, verdict="inconclusive", outputs=agreement, reasons=(why, *found.reasons))
        seen = "" if agreement.detected else "; a wrong copy went unseen on these inputs, so this proves little"
        why = (
            f"outputs agree to {agreement.error:.1e} of the largest (rounding explains {agreement.tolerance:.1e}){seen}"
        )
    else:
        why = f"outputs differ by {agreement.error:.1e} of the largest"
        if found.verdict == "same up to precision" and not agreement.error < COARSE:
            return replace(found, verdict="derived", outputs=agreement, reasons=(why, *found.reasons))
    return replace(found, outputs=agreement, reasons=(*found.reasons, why))
