"""When a classifier counts as collapsed: bounds, and the sentence that says why or why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weyl.geometry._collapse import Collapse

__all__ = ["COLLAPSED", "PARTLY", "Verdict", "verdict"]

# A network is called collapsed only if every one of these holds, each of what its interval allows where there is one.
COLLAPSED: Mapping[str, float] = {"nc1_ratio": 0.05, "nc2": 0.1, "nc3": 0.1, "nc4": 0.01}
FITTED = 0.999  # training accuracy: collapse belongs to the phase after the training error is zero
PARTLY: Mapping[str, float] = {"nc1_ratio": 0.5, "nc2": 0.3, "nc3": 0.3, "nc4": 0.05}
FEW = 10  # samples of a class; with one, its spread is zero whatever the network does
WORDS = {
    "nc1_ratio": "the spread within classes is {value:.2g} of that between them",
    "nc2": "the class means are {value:.2g} from a simplex",
    "nc3": "the classifier times the class means is {value:.2g} from a simplex",
    "nc4": "it disagrees with the nearest class mean on {value:.1%}",
}


@dataclass(frozen=True)
class Verdict:
    """How far a classifier has collapsed.

    Parameters
    ----------
    level : {'collapsed', 'partly', 'not', 'undecided'}
        The answer.
    sentence : str
        The same in words, with the numbers that decided.
    failed : tuple of str
        Metrics that keep it from being collapsed.
    """

    level: str
    sentence: str
    failed: tuple[str, ...] = ()


def verdict(found: Collapse, held_out: bool = False) -> Verdict:
    r"""Say how far a classifier has collapsed, with the numbers that decide.

    *Collapsed* needs all of: a training accuracy of 99.9 %; tr Σ_W / tr Σ_B ≤ 0.05; NC2 and NC3 ≤ 0.1 above their
    floors; NC4 ≤ 1 %; ten samples of every class. *Partly* needs 0.5, 0.3, 0.3 and 5 %. Where a metric has an interval,
    its upper end decides.

    The bounds are conventions of this project; the literature has none. On 2,000 MNIST images, a perceptron with batch
    normalisation meets the first after 200 epochs of SGD with weight decay 0.005, and not without the decay.

    Parameters
    ----------
    found : Collapse
        Of the penultimate layer.
    held_out : bool
        Whether these are not training data; collapse is a property of training data, so that leaves it undecided.

    Returns
    -------
    Verdict
        The level and a sentence.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117, 2020: the four properties, and the terminal phase of training.
    """
    measured = {name: height for name in COLLAPSED if (height := _height(found, name)) is not None}
    told = _numbers(found)
    if len(found.classes) > 1 and found.nc2 is None:
        return Verdict("not", "Not collapsed: the means of all classes coincide.", ("nc2",))
    if len(found.classes) < 2:
        return Verdict("undecided", "One class alone has no shape: at least two must be present.")
    if min(found.counts) < FEW:
        many = "1 sample" if min(found.counts) == 1 else f"{min(found.counts)} samples"
        few = f"with {many} of a class (at least {FEW} are needed) spread cannot be judged"
        return Verdict("undecided", f"Undecided: {few}; {told}.")
    if found.left_out:
        bad = f"the features of {found.left_out} samples are not finite"
        return Verdict("undecided", f"Undecided: {bad}; on the others, {told}.")
    failed = tuple(name for name, height in measured.items() if not height <= COLLAPSED[name])
    if held_out:
        return Verdict("undecided", f"On held-out data, which do not say whether training collapsed: {told}.", failed)
    # Without logits, the nearest class mean has to do.
    accuracy = found.ncm_accuracy if found.accuracy is None else found.accuracy
    if accuracy is None or accuracy < FITTED:
        failed = ("accuracy", *failed)
    if not failed and {"nc3", "nc4"} <= set(measured):
        return Verdict("collapsed", f"Collapsed: {told}.{_absent(found)}")
    if all(height <= PARTLY[name] for name, height in measured.items()):
        return Verdict("partly", f"Partly collapsed: {told}.{_why(found, failed)}{_absent(found)}", failed)
    return Verdict("not", f"Not collapsed: {told}.{_why(found, failed)}{_absent(found)}", failed)


def _height(found: Collapse, name: str) -> float | None:
    """A metric above its floor, at the upper end of its interval if there is one."""
    value = getattr(found, name)
    if value is None:
        return None
    value = found.intervals.get(name, (value, value))[1]
    levels = found.reference.get(name)
    floor = levels.floor if levels is not None and levels.floor is not None else 0.0
    return float(value) - floor if math.isfinite(value) else math.inf


def _numbers(found: Collapse) -> str:
    return ", ".join(
        words.format(value=value) for name, words in WORDS.items() if (value := getattr(found, name)) is not None
    )


def _why(found: Collapse, failed: tuple[str, ...]) -> str:
    """What stands most in the way."""
    if "accuracy" in failed and found.accuracy is not None:
        return f" Only {found.accuracy:.1%} of the training data are classified correctly; collapse comes after that."
    levels = found.reference.get("nc2")
    if "nc2" in failed and found.nc2 is not None and levels is not None and levels.chance is not None:
        return f" Random class means in {found.dim} dimensions would be {levels.chance:.2g} from a simplex."
    return ""


def _absent(found: Collapse) -> str:
    count = len(found.absent)
    return f" {count} {'class is' if count == 1 else 'classes are'} absent and left out." if count else ""
