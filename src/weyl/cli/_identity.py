"""``weyl compare``, ``weyl fingerprint`` and ``weyl canonicalize``: whether one network is another in disguise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weyl.cli._merging import FILE, Kinds
from weyl.cli._outputs import refuse_force, refuse_report, write_report
from weyl.cli._params import force_option, model_options, output_path

__all__ = ["canonicalize", "compare", "fingerprint"]

EXIT = {"identical": 0, "same function": 0, "same up to precision": 0, "derived": 1, "unrelated": 1, "inconclusive": 4}
MOVES = ("permute", "sign", "scale", "mix", "translate")
ALPHA = 1e-6
SAVED = click.option("--key", metavar="NAME", help="Which dict of several in the files.")


@click.command()
@model_options
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@SAVED
@click.option("--explain", is_flag=True, help="Show the evidence of every space, and what was not compared.")
@click.option("--align/--no-align", default=True, show_default=True, help="Move B next to A where they are related.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=ALPHA,
    show_default=True,
    metavar="P",
    help="Independent trainings are called derived at most so often.",
)
@click.option(
    "--report",
    type=FILE,
    callback=output_path(".html", ".htm"),
    metavar="OUT.html",
    help="Write an HTML report, and its numbers as JSON beside it.",
)
@force_option
def compare(
    a: Path, b: Path, key: str | None, explain: bool, as_json: bool, report: Path | None, force: bool, **options: Any
) -> int:
    """Say whether the weights in A and in B are one network.

    A and B are files of weights of MODEL, or one of them of a network like it: with another head, a resized
    vocabulary, fewer layers. Then what they share is compared. A verdict is one of

    \b
      identical              the same numbers
      same function          a symmetry of MODEL makes one of the other
      same up to precision   and the numbers of one were rounded to fewer bits
      derived                one was made from the other, or both from a third, by training, pruning, merging
                             or noise, whatever the order of units now
      unrelated              nothing shows that they have a common origin
      inconclusive           numbers that are not finite, or too little to compare

    Where both files fit MODEL, its outputs are compared, too. Exits with 0 for the first three, with 1 for derived and
    unrelated, and with 4 for inconclusive.

    \b
    Examples:
      weyl compare "mlp?widths=784-512-10" a.pt b.pt
      weyl compare hf:config.json base.safetensors other.safetensors --explain --report compare.html
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _identity_show as show
    from weyl.cli._work import Source, step

    refuse_force(force, report, "--report")
    if report is not None:
        for file in (a, b):
            refuse_report(report, options["model"], weights=file, force=force)
    with step("loading torch") as say:
        from weyl.cli._identity_work import compare_of

        how = {name: options.pop(name) for name in ("align", "alpha")}
        found = compare_of(Source(**options), (a, b), key, say, **how)
    if report is not None:
        from weyl.report import to_json
        from weyl.report._identity import render_comparison

        page = render_comparison(found, numbers=report.with_suffix(".json").name)
        write_report(report, page, to_json(found.to_dict()), force=force)
    show.compared(found, explain=explain, as_json=as_json)
    return EXIT[found.comparison.verdict]


@click.command()
@model_options
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@SAVED
def fingerprint(files: tuple[Path, ...], key: str | None, as_json: bool, **options: Any) -> int:
    """Print a hash of the weights in each FILE that no relabelling changes.

    Copies whose units were put in another order, or have other signs, have one fingerprint, bit for bit; it is printed
    as sha256sum prints a hash. A file in another precision has another one. Scales, matrices and translations leave
    rounding behind, so that no hash is the same under them: weyl compare sees through those, too. Of a file, one
    tensor at a time is in memory.

    After a file without a fingerprint the next one is read. Exits with the worst of all files: 1 if one does not fit
    MODEL, 3 if it cannot be read, and 4 if it has NaN or infinity.

    \b
    Examples:
      weyl fingerprint "mlp?widths=784-512-10&act=tanh" a.pt b.pt
      weyl fingerprint hf:config.json model.safetensors --json
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _identity_show as show
    from weyl.cli._work import Source, step

    with step("loading torch") as say:
        from weyl.cli._console import warn
        from weyl.cli._identity_files import refuse_empty
        from weyl.cli._identity_prints import Prints, fingerprint_of
        from weyl.cli._work import find

        refuse_empty(files)
        model = find(Source(**options), say)
    warn(model.warnings)
    made = []
    for file in files:
        with show.reading(file) as progress:
            one = fingerprint_of(model, file, key, progress)
        made.append(one)
        if not as_json:
            show.printed(one)
    found = Prints(model, tuple(made))
    if as_json:
        from weyl.report import to_json

        for one in made:
            show.failed(one)
        click.echo(to_json(found.to_dict()))
    show.copies(found)
    return found.exit_code


@click.command()
@model_options
@click.argument("file", type=FILE)
@SAVED
@click.option(
    "--kinds", type=Kinds(), metavar="KIND,...", help=f"What to settle, all unless given: {', '.join(MOVES)}."
)
@click.option(
    "-o",
    "--output",
    "--out",
    "out",
    type=FILE,
    callback=output_path(".safetensors"),
    metavar="OUT.safetensors",
    help="Where the normal form is written.",
)
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@force_option
def canonicalize(
    file: Path,
    key: str | None,
    kinds: tuple[str, ...] | None,
    as_json: bool,
    out: Path | None,
    dry_run: bool,
    force: bool,
    **options: Any,
) -> int:
    """Bring the weights in FILE to their normal form, the same one for all copies.

    Units are put in an order that depends on what they hold alone, signs, scales, matrices and translations are
    settled. With --kinds permute,sign nothing is rounded, and copies become equal bit for bit. What is written computes
    what FILE computes, which is checked on MODEL, and has the names and types of its tensors and its metadata.

    Exits with 1, and writes nothing, if the normal form computes something else, and with 4 if that cannot be decided.

    \b
    Examples:
      weyl canonicalize "mlp?widths=784-512-10" net.pt --output normal.safetensors
      weyl canonicalize net.py:make net.pt --output normal.safetensors --kinds permute,sign
    """  # noqa: D301 (click's mark for lines to keep)
    from weyl.cli import _identity_show as show
    from weyl.cli._work import Source, step

    if out is None and not dry_run:
        raise click.UsageError("--output names the file to write; give it, or --dry-run")
    refuse_force(force, out, "--output")
    with step("loading torch") as say:
        from weyl.cli._identity_work import canonical_of
        from weyl.cli._merge_files import refuse_output, write

        if out is not None:
            refuse_output(out, (file,), force=force)
        found = canonical_of(Source(**options), file, key, kinds, say)
        written = out is not None and not dry_run and found.exit_code != 1
        if out is not None and written:
            write(out, found.content, inputs=(file,), force=force)
    if out is not None and written:
        click.echo(f"weyl: wrote {click.format_filename(out)}", err=True)
    show.canonical(found, out, dry_run=dry_run, as_json=as_json)
    return found.exit_code
