"""``weyl simplex`` and ``weyl collapse``: the best shape of a representation, and how near a model has come to it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from weyl.cli._outputs import refuse_force, refuse_report, write_report
from weyl.cli._params import InputShape, Whole, force_option, json_option, output_path
from weyl.errors import LimitError

__all__ = ["collapse", "simplex"]

MOST_CLASSES = 4096
LEAST_RESAMPLINGS = 20


class Names(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Names, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read ``"fc1,fc2"``."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        if not all(names):
            self.fail(f"names such as fc1,fc2 are expected, got {value!r}", param, ctx)
        return names


def _degrees(cosine: float) -> float:
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def resamplings(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """Refuse so few resamplings that the ends of a 95 % interval would be the extremes of chance."""
    if 0 < value < LEAST_RESAMPLINGS:
        few = f"{value} resamplings are too few for a 95 % interval"
        raise click.BadParameter(f"{few}; give {LEAST_RESAMPLINGS} or more (200 are usual), or 0 for none", ctx, param)
    return value


@click.command()
@click.argument("k", type=Whole(min=2), metavar="K")
@click.option("--radius", type=float, default=1.0, show_default=True, help="Radius of the ball of logits.")
@click.option("--p", type=float, default=2.0, show_default=True, help="Exponent of its norm, above 1.")
@json_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    callback=output_path(".svg"),
    metavar="OUT.svg",
    help="Draw the simplex (3 or 4 classes) or the least risk against the radius.",
)
@force_option
def simplex(k: int, radius: float, p: float, as_json: bool, plot: Path | None, force: bool) -> None:
    """Show the best logits for K classes.

    Cross-entropy over logits in a ball is least at the vertices of a regular simplex
    (E and Wojtowytsch, arXiv 2012.05420, Lemma 4 and Corollary 6).

    \b
    Examples:
      weyl simplex 10 --radius 5
      weyl simplex 4 --radius 2 --plot tetrahedron.svg
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_representations as show
    from weyl.report import refuse_existing

    refuse_force(force, plot, "--plot")
    if k > MOST_CLASSES:
        raise LimitError(f"{k:,} classes are more than {MOST_CLASSES:,}, for which the vertices are computed")
    if plot is not None:
        refuse_existing(plot, force=force)
    from weyl.geometry import simplex_optimum

    best = simplex_optimum(k, radius, p)
    # From the ratio of the two values, which neither a huge nor a tiny radius can push out of range.
    ratio = best.beta / best.alpha if best.alpha else 0.0
    cosine = (2 * ratio + (k - 2) * ratio**2) / (1 + (k - 1) * ratio**2)
    facts = {
        "classes": k,
        "radius": best.radius,
        "p": best.p,
        "alpha": best.alpha,
        "beta": best.beta,
        "risk": best.risk,
        "side": math.sqrt(2) * (best.alpha - best.beta),
        "cosine": cosine,
        "angle": _degrees(cosine),
        # About the middle of the vertices every regular simplex has the same angle; from 0 it has only for p = 2.
        "centred_cosine": -1 / (k - 1),
        "centred_angle": _degrees(-1 / (k - 1)),
        "centre": best.alpha / k + best.beta * (k - 1) / k,
    }
    if plot is not None:
        from weyl.report import write_atomic
        from weyl.report._collapse_figures import optimum
        from weyl.report.figures import standalone

        write_atomic(plot, standalone(optimum(best)), force=force)
        click.echo(f"weyl: wrote {click.format_filename(plot)}", err=True)
    show.simplex(facts, as_json=as_json)


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", required=True, metavar="DATA", help="What to run it on, see above.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Its trained weights: .safetensors, .pt",
)
@click.option("--key", metavar="NAME", help="Which dict of several in the weights file.")
@click.option(
    "--split",
    type=click.Choice(["train", "test", "both"]),
    default="train",
    show_default=True,
    help="Which part of DATA: collapse is a property of training data.",
)
@click.option("--layers", type=Names(), metavar="NAME,...", help="More layers to measure, at their outputs.")
@click.option("--classifier", metavar="NAME", help="The layer that makes the logits, if it is not found.")
@click.option("--ood", metavar="DATA", help="Out-of-distribution data: NC5, and how well they are told apart.")
@click.option("--profile", is_flag=True, help="Measure every layer, and say where the tail could be cut.")
@click.option(
    "--bootstrap",
    type=Whole(0, 10_000),
    default=0,
    callback=resamplings,
    metavar="N",
    help=f"Resamplings for 95 % intervals, {LEAST_RESAMPLINGS} or more.",
)
@click.option("--batch-size", type=Whole(1), default=256, show_default=True, help="Inputs at a time.")
@click.option("--limit", type=Whole(1), metavar="N", help="At most so many inputs of each part.")
@click.option(
    "--input-shape", type=InputShape(), metavar="1,3,224,224", help="Shape of the model's input, batch included."
)
@click.option(
    "--seed",
    type=Whole(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Seed of initial weights and resampling.",
)
@json_option
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=output_path(".html", ".htm"),
    metavar="OUT.html",
    help="Write an HTML report, and its numbers as JSON beside it.",
)
@force_option
def collapse(
    model: str, layers: tuple[str, ...] | None, as_json: bool, report: Path | None, force: bool, **options: Any
) -> None:
    """Measure how far MODEL has collapsed on DATA.

    In the last phase of training, the features of each class shrink to a point and the class means become the
    vertices of a regular simplex. Each metric is shown with its chance level and its floor.

    DATA is one of

    \b
      mnist, digits, fashion, letters   built-in images; letters are a shift for mnist
      file.npz                          arrays x and y, and x_test and y_test if there are
      package.module:factory            a function that returns a loader, a Dataset or (x, y)
      path/file.py:factory              the same, in a file; its code is run
      directory                         images, one sub-directory for each class

    with options after "?": "mnist?held_out=500", "photos?size=64&mean=0.5&std=0.25". Images are
    standardised by the training part of --data, those of --ood, too.

    \b
    Examples:
      weyl collapse "mlp?widths=784-512-512-512-10" --weights net.pt --data mnist --ood letters
      weyl collapse net.py:make --weights net.safetensors --data photos --report collapse.html
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_representations as show
    from weyl.cli._work import step
    from weyl.report import render_collapse, to_json

    refuse_force(force, report, "--report")
    if report is not None:
        sources = [options[name] for name in ("data", "ood") if options[name]]
        refuse_report(report, model, *sources, weights=options["weights"], force=force)
    with step("loading torch") as say:
        from weyl.cli._measure import Request, measured

        found = measured(Request(model=model, layers=layers or (), **options), say)
    if report is not None:
        page = render_collapse(found, numbers=report.with_suffix(".json").name)
        write_report(report, page, to_json(found.to_dict()), force=force)
    show.collapse(found, as_json=as_json)
