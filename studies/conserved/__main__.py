"""Run the study, write its results, its table and its figure."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studies.conserved._design import FULL, SMOKE
from studies.conserved._figure import write_figure
from studies.conserved._run import study
from studies.conserved._table import table, with_table

STUDIES = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.conserved", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images, three learning rates, one seed")
    parser.add_argument("--render", action="store_true", help="only the table and the figure, from the results")
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (STUDIES.parent / "build" / "studies" if options.smoke else STUDIES)
    results = out / "results" / "conserved.json"
    if not options.render:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(_text(study(SMOKE if options.smoke else FULL)), encoding="utf-8")
    found = json.loads(results.read_text(encoding="utf-8"))
    if out == STUDIES:
        README.write_text(with_table(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(table(found), end="")
    for path in write_figure(found, out / "figures"):
        print(path)
    return 0


def _text(results: dict[str, object]) -> str:
    """JSON with one run a line."""
    runs = results.pop("runs")
    assert isinstance(runs, list)
    body = ",\n".join(json.dumps(run) for run in runs)
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in results.items())
    return f'{{{fields},\n"runs": [\n{body}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
