"""The commands. Each imports what it needs when it runs, so that ``weyl --help`` answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from weyl._version import __version__
from weyl.cli._identity import canonicalize, compare, fingerprint
from weyl.cli._merging import align, barrier, merge
from weyl.cli._orbits import balance, orbit, tangents
from weyl.cli._outputs import refuse_force, refuse_report, write_report
from weyl.cli._params import (
    SIZE,
    CountCommand,
    Sizes,
    Whole,
    force_option,
    json_option,
    model_options,
    output_path,
    trials_option,
    weights_options,
)
from weyl.cli._program import Program
from weyl.cli._representations import collapse, simplex
from weyl.errors import LimitError

__all__ = ["main"]

INCONCLUSIVE = 4
HOLDS = {"holds": 0, "fails": 1, "inconclusive": INCONCLUSIVE}
MOST_DIGITS = 1_000_000


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="weyl")
def main() -> None:
    """Find, count and prove the symmetries of neural networks.

    MODEL is one of

    \b
      mlp?widths=784-512-10     a built-in: mlp, cnn, resnet, resnet18, transformer, lstm
      package.module:factory    a function that returns a torch.nn.Module, or (module, args)
      path/file.py:factory      the same, in a file; its code is run
      hf:config.json            a transformers model, built from its configuration, offline

    with keyword arguments after "?", in quotes because of the shell: "file.py:make?width=64&depth=3".

    \b
    Exit codes: 0 yes or done · 1 no · 2 usage · 3 bad input · 4 inconclusive or over a limit ·
    70 a bug in weyl · 130 interrupted.
    """  # noqa: D301 (click's mark for lines to keep)


main.add_command(align)
main.add_command(balance)
main.add_command(barrier)
main.add_command(canonicalize)
main.add_command(collapse)
main.add_command(compare)
main.add_command(fingerprint)
main.add_command(merge)
main.add_command(orbit)
main.add_command(simplex)
main.add_command(tangents)


@main.command()
@model_options
@trials_option
@weights_options
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the group on the model.")
@click.option("--gauges", is_flag=True, help="Show everything that acts on units in a row of its own.")
@click.option("--exact", is_flag=True, help="Show all digits of the order.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=output_path(".html", ".htm"),
    metavar="OUT.html",
    help="Write an HTML report, and its numbers as JSON beside it.",
)
@force_option
def inspect(
    model: str,
    input_shape: tuple[int, ...] | None,
    strict: bool,
    trials: int,
    seed: int,
    as_json: bool,
    weights: Path | None,
    key: str | None,
    verify: bool,
    gauges: bool,
    exact: bool,
    report: Path | None,
    force: bool,
) -> int:
    """Show the symmetry group of MODEL.

    Its spaces, what acts on each and where it occurs, how many equivalent minima they make, the continuous dimension
    item by item, and the proof. With --weights also the orbit of these weights, as weyl orbit.

    Exits with 1 if the group was refuted, and with 4 if the orbit of given weights could not be counted.

    What acts on units beside permutations is called a gauge: "fc1 scale" are scales of the units of fc1, and
    "fc1 scale 2" is the second gauge of that kind. In the symbol of the group,

    \b
      S_n           permutes n units
      B_n           permutes them and changes signs
      Mon+_n Mon_n  permute them, with positive scales, with all scales but 0
      GL_n O_n      mix them by invertible matrices, by rotations
      Z2 R+ R* C*   are signs, positive, real and complex scales
      R^n Z^n       are translations, those by integers
      H ≀ S_n       is a copy of H for each of n units, which are permuted, too
      H ⋉ R^n       is H, and translations beside it

    \b
    Examples:
      weyl inspect "mlp?widths=784-512-10"
      weyl inspect net.py:make --input-shape 1,3,32,32 --report net.html
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show
    from weyl.cli._work import Source, examine
    from weyl.report import render_inspection, to_json

    refuse_force(force, report, "--report")
    if report is not None:
        refuse_report(report, model, weights=weights, force=force)
    source = Source(model, input_shape, strict, seed, weights, key)
    found = examine(source, trials=trials if verify else 0, with_orbit=weights is not None)
    if exact:
        _limit_digits(found.structure.group.order.log10)
    if report is not None:
        page = render_inspection(found, exact=exact, numbers=report.with_suffix(".json").name)
        write_report(report, page, to_json(found.to_dict(exact)), force=force)
    _show.inspection(found, as_json=as_json, exact=exact, gauges=gauges)
    # What could not be checked is said, and the structure stands; what was refuted does not.
    if found.proof is not None and found.proof.verdict == "fails":
        return 1
    return INCONCLUSIVE if weights is not None and found.orbit is None else 0


@main.command()
@model_options
@trials_option
@weights_options
def verify(
    model: str,
    input_shape: tuple[int, ...] | None,
    strict: bool,
    trials: int,
    seed: int,
    as_json: bool,
    weights: Path | None,
    key: str | None,
) -> int:
    """Check the symmetry group of MODEL on itself.

    Random elements, of all kinds together and of each kind alone, must leave its outputs unchanged, and a
    deliberately wrong one of each kind must not.
    Exits with 0 if the symmetry holds, 1 if it does not, 4 if that cannot be decided.

    \b
    Example:
      weyl verify "transformer?layers=1" --trials 5
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show
    from weyl.cli._work import Source, examine

    found = examine(Source(model, input_shape, strict, seed, weights, key), trials=trials)
    assert found.proof is not None
    _show.proof(found, as_json=as_json)
    return HOLDS[found.proof.verdict]


@main.command(cls=CountCommand)
@click.argument("sizes", type=SIZE, nargs=-1, required=True, metavar="SIZE...")
@click.option("--conv", is_flag=True, help="SIZEs are the numbers of filters of convolutions.")
@click.option("--dense", type=Sizes(), default=(), metavar="SIZE...", help="Hidden dense layers after them.")
@click.option("--exact", is_flag=True, help="Show all digits.")
@json_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    callback=output_path(".svg"),
    metavar="OUT.svg",
    help="Draw how the count grows with width.",
)
@force_option
def count(
    sizes: tuple[int, ...],
    conv: bool,
    dense: tuple[int, ...],
    exact: bool,
    as_json: bool,
    plot: Path | None,
    force: bool,
) -> None:
    """Count the minima of a plain chain of layers.

    A chain of hidden layers of sizes n, m, ... has n! m! ... equivalent minima (Michelucci, arXiv 2211.06603).
    That counts permutations; what tanh and ReLU add to them is shown, too. For residual links, normalisation,
    attention or tied weights, use weyl inspect.

    \b
    Examples:
      weyl count 512 512 512
      weyl count 64 128 256 --conv --dense 128 64
    """  # noqa: D301 (click's mark for lines to keep)
    if dense and not conv:
        raise click.UsageError("--dense needs --conv; give the sizes of a dense network as SIZEs")
    from weyl.cli import _show
    from weyl.groups import convolutional_order, feedforward_order
    from weyl.report import refuse_existing

    refuse_force(force, plot, "--plot")
    if plot is not None:
        refuse_existing(plot, force=force)
    order = convolutional_order(sizes, dense) if conv else feedforward_order(sizes)
    if exact:
        _limit_digits(order.log10)
    if plot is not None:
        from weyl.report import write_atomic
        from weyl.report.figures import growth, standalone

        write_atomic(plot, standalone(growth(mark=order)), force=force)
        click.echo(f"weyl: wrote {click.format_filename(plot)}", err=True)
    layers = {"filters": sizes, "dense": dense} if conv else {"hidden": sizes}
    _show.count(layers, order, as_json=as_json, exact=exact)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("weyl-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for report.html and report.json.",
)
@click.option("--quick", is_flag=True, help="Tiny networks and little training, in seconds.")
@click.option("--seed", type=Whole(0, 2**31 - 1), default=0, show_default=True, help="Seed of everything.")
@json_option
@force_option
def demo(out: Path, quick: bool, seed: int, as_json: bool, force: bool) -> int:
    """Train networks, show their symmetry, and align two trainings.

    Finds and proves the symmetry of each, walks to five equivalent minima, tells copies of a network in disguise from
    strangers, and writes a report.

    \b
    Example:
      weyl demo --quick --out tour
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _show
    from weyl.cli._work import show_off

    found, report = show_off(out, quick=quick, seed=seed, force=force)
    _show.demo(found, report, as_json=as_json)
    return 0 if found.holds else 1


def _limit_digits(log10: float) -> None:
    if log10 >= MOST_DIGITS:
        raise LimitError(
            f"--exact: {log10:,.0f} digits are more than {MOST_DIGITS:,}; leave it out, the factored form is exact, too"
        )
