"""What is said of two files of weights beside each other, and its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weyl._version import __version__
from weyl.report._group import MOVES

if TYPE_CHECKING:
    from weyl.identity import Comparison

__all__ = ["SENTENCES", "Compared", "p_told", "render_comparison"]

# Of p-values nothing is said below it: they are computed down to 1e-300.
LEAST = 1e-290
SENTENCES: Mapping[str, str] = {
    "identical": "A and B hold the same numbers.",
    "same function": "A and B compute the same function: a symmetry of the network makes one of the other.",
    "same up to precision": "A and B are the same network, one of them in fewer bits.",
    "derived": "A and B have a common origin: one was made from the other, or both from a third.",
    "unrelated": "Nothing shows that A and B have a common origin.",
    "inconclusive": "Whether A and B have anything in common cannot be decided.",
}
IN_ANOTHER_FORMAT = "A and B hold the same numbers, in different formats."
SETTINGS: Mapping[str, str] = {
    "model": "model",
    "a": "A",
    "b": "B",
    "key": "dict of the files",
    "alpha": "related if p is below",
    "align": "aligned",
    "seed": "seed",
    "weyl": "weyl",
    "torch": "torch",
}


@dataclass(frozen=True, eq=False)
class Compared:
    """What ``weyl compare`` found.

    Parameters
    ----------
    model, a, b : str
        Names to show.
    group : str
        Symbol of the model's group.
    comparison : Comparison
        The verdict and why.
    hashes : tuple of (str, str)
        SHA-256 of both files.
    cosine : float or None
        Of the weights as they are; None where they are not finite.
    warnings : tuple of str
        What a reader must know besides.
    settings : mapping
        What it was made from.
    """

    model: str
    a: str
    b: str
    group: str
    comparison: Comparison
    hashes: tuple[str, str]
    cosine: float | None
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What is to be remembered."""
        found = self.comparison
        same_numbers = found.verdict == "same function" and found.element is not None and found.element.is_identity
        return IN_ANOTHER_FORMAT if same_numbers else SENTENCES[found.verdict]

    @property
    def same_file(self) -> bool:
        """Whether both files have the same bytes."""
        return self.hashes[0] == self.hashes[1]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Numbers and moves, as titles and text."""
        found = self.comparison
        facts = [("p-value", p_told(found.p_value))]
        if found.distance_before is not None:
            after = ""
            if found.element is not None and not found.element.is_identity:
                after = f", {found.distance:.3g} after B was moved"
            facts.append(("distance", f"{found.distance_before:.3g} as they are{after}, in units of the norm of A"))
        if found.element is not None and not found.element.is_identity:
            moves = ", ".join(words for move, words in MOVES.items() if move in found.element.moves)
            facts.append(("moved by", moves))
        if found.rounding is not None:
            facts.append(("rounded to", found.rounding.name))
        return facts

    @property
    def usual(self) -> list[tuple[str, str]]:
        """What a hash and a cosine say, as titles and text."""
        one, other = self.hashes
        hashes = "the same file" if self.same_file else f"two files: {one[:16]}… and {other[:16]}…"
        cosine = "nothing: there are numbers that are not finite" if self.cosine is None else f"{self.cosine:.4f}"
        return [("a hash says", hashes), ("a cosine says", cosine)]

    @property
    def made_from(self) -> list[tuple[str, str]]:
        """Titles and text of the settings; what was not given is left out."""
        words = {True: "yes", False: "no"}
        return [
            (title, words[value] if isinstance(value, bool) else str(value))
            for name, title in SETTINGS.items()
            if (value := self.settings.get(name)) not in (None, "")
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "weyl": __version__,
            "model": self.model,
            "a": self.a,
            "b": self.b,
            "group": self.group,
            "sentence": self.sentence,
            **self.comparison.to_dict(),
            "sha256": list(self.hashes),
            "cosine": self.cosine,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
        }


def p_told(p: float | None) -> str:
    """A p-value in words.

    Examples
    --------
    >>> p_told(0.25), p_told(1e-300), p_told(None)
    ('0.25', 'below 1e-290', 'none: the verdict rests on no statistics')
    """
    if p is None:
        return "none: the verdict rests on no statistics"
    return f"below {LEAST:.0e}" if p < LEAST else f"{p:.2g}"


def render_comparison(found: Compared, *, numbers: str = "") -> str:
    """Render the report of ``weyl compare`` as one HTML document.

    Parameters
    ----------
    found : Compared
        What to show.
    numbers : str
        Name of the JSON file beside the report.

    Returns
    -------
    str
        HTML.
    """
    from markupsafe import Markup

    from weyl.report._html import environment
    from weyl.report._identity_figures import agreement

    evidence = found.comparison.evidence
    tested = [] if evidence is None else [space for space in evidence.spaces if space.ways]
    # The figure escapes what it shows; only its own markup may pass.
    figure = Markup(agreement(tested)) if tested else None
    template = environment().get_template("identity.html")
    return template.render(it=found, numbers=numbers, evidence=evidence, figure=figure)
