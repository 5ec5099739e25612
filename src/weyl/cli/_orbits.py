"""``weyl orbit``, ``weyl balance`` and ``weyl tangents``: what the group does to the weights of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weyl.cli._outputs import refuse_force
from weyl.cli._params import Whole, force_option, model_options, output_path, weights_options

__all__ = ["balance", "orbit", "tangents"]

HOLDS = {"holds": 0, "fails": 1, "inconclusive": 4}
INCONCLUSIVE = 4
TRIALS = 8


@click.command()
@model_options
@weights_options
@click.option("--hidden", is_flag=True, help="Measure the rank of the model's function, too (20,000 parameters).")
@click.option(
    "--samples",
    type=Whole(1, 10**6),
    metavar="N",
    help="Random inputs for --hidden; enough for two rows a parameter unless given.",
)
@click.option(
    "--budget",
    type=Whole(0, 10**9),
    default=5000,
    show_default=True,
    help="Steps before the search for the stabiliser gives up.",
)
def orbit(as_json: bool, hidden: bool, samples: int | None, budget: int, **options: Any) -> int:
    """Count the distinct weights that are equivalent to those of MODEL.

    The group moves weights in general position to as many places as it has elements. Duplicate units, units that
    do nothing and the like hold it fixed: they are named, and the distinct equivalent weights counted exactly.

    With --hidden, the directions in weight space that leave the outputs on random inputs unchanged to first order
    are counted: what the group does not explain of them is hidden symmetry at these weights, or too few inputs.

    Exits with 4 if the search for the stabiliser gave up, so that the count is a bound.

    \b
    Examples:
      weyl orbit "mlp?widths=4-5-3&act=tanh"
      weyl orbit "mlp?widths=4-5-3" --hidden
      weyl orbit net.py:make --weights net.safetensors --json
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_orbits as show
    from weyl.cli._work import Source, step

    if samples is not None and not hidden:
        raise click.UsageError("--samples is the number of inputs for --hidden; give --hidden, too")
    with step("loading torch") as say:
        from weyl.cli._orbit_work import orbit_of

        found = orbit_of(Source(**options), say, budget=budget, hidden=hidden, samples=samples)
    show.orbit(found, as_json=as_json)
    return 0 if found.orbit.exact else INCONCLUSIVE


@click.command()
@model_options
@weights_options
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    callback=output_path(".safetensors"),
    metavar="OUT.safetensors",
    help="Write the balanced weights; without it, only the numbers are shown.",
)
@force_option
def balance(as_json: bool, out: Path | None, force: bool, **options: Any) -> int:
    """Find the equivalent weights of MODEL with the least norm.

    Scales and matrices of the group make weights larger or smaller without changing what is computed. The sum of
    squares is least where what goes into each unit balances what comes out of it. The file of --weights is never
    written over. Exits with 4 if the balance was not reached.

    \b
    Examples:
      weyl balance "mlp?widths=4-5-3"
      weyl balance net.py:make --weights net.pt -o balanced.safetensors
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_orbits as show
    from weyl.cli._work import Source, step

    refuse_force(force, out, "-o")
    source = Source(**options)
    with step("loading torch") as say:
        from weyl.checkpoints import refuse_target
        from weyl.cli._orbit_work import balance_of, write_balanced

        inputs = () if source.weights is None else (source.weights,)
        if out is not None:
            refuse_target(out, inputs=inputs, force=force)
        found = balance_of(source, say)
        if out is not None:
            write_balanced(out, found, inputs=inputs, force=force)
    if out is not None:
        click.echo(f"weyl: wrote {click.format_filename(out)}", err=True)
    show.balance(found, as_json=as_json)
    return 0 if found.reached else INCONCLUSIVE


@click.command()
@model_options
@weights_options
@click.option("--check", is_flag=True, help="Differentiate the outputs along random directions of each.")
@click.option(
    "--trials", type=Whole(2, 1000), metavar="N", help=f"Random directions of each for --check; {TRIALS} unless given."
)
def tangents(as_json: bool, check: bool, trials: int | None, **options: Any) -> int:
    """List the directions in which the continuous symmetry moves the weights of MODEL.

    With --check, the derivative of the outputs along them must vanish, and that along a deliberately wrong direction
    must not: a second proof, by differentiation. Then exits as weyl verify does: with 0 if the symmetry holds, 1 if it
    does not, 4 if that cannot be decided.

    \b
    Examples:
      weyl tangents "transformer?layers=1"
      weyl tangents "mlp?widths=4-5-3" --check
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show_orbits as show
    from weyl.cli._work import Source, step

    if trials is not None and not check:
        raise click.UsageError("--trials is the number of directions for --check; give --check, too")
    with step("loading torch") as say:
        from weyl.cli._orbit_work import tangents_of

        found = tangents_of(Source(**options), say, trials=(trials or TRIALS) if check else 0)
    show.tangents(found, as_json=as_json)
    return 0 if found.check is None else HOLDS[found.check.verdict]
