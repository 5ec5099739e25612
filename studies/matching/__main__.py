"""Train what is missing, run the study, write its results, its tables and its figure."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studies.matching._design import ARMS, FULL, SMOKE
from studies.matching._figure import write_figure
from studies.matching._store import cached_runs, write_results
from studies.matching._table import table, with_table
from studies.matching._train import FOLDER, train_all

STUDIES = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
EVERY = (*ARMS, "together")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.matching", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small digits, small networks")
    parser.add_argument("--render", action="store_true", help="only the tables and the figure, from the results")
    parser.add_argument("--train", action="store_true", help="only the trainings that are missing")
    parser.add_argument("--arms", nargs="+", choices=EVERY, default=EVERY, metavar="ARM", help=", ".join(EVERY))
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (STUDIES.parent / "build" / "studies" if options.smoke else STUDIES)
    results = out / "results" / "matching.json"
    if not options.render:
        size, folder = (SMOKE, out / "matching") if options.smoke else (FULL, FOLDER)
        train_all(size, folder, tell)
        if options.train:
            return 0
        write_results(results, size, list(cached_runs(size, options.arms, folder, tell)), folder)
    found = json.loads(results.read_text(encoding="utf-8"))
    if out == STUDIES:
        README.write_text(with_table(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(table(found), end="")
    for path in write_figure(found, out / "figures"):
        print(path)
    return 0


def tell(line: str) -> None:
    """Show progress at once, on the channel that is not the result."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
