"""Run the study, write its results, its table and its figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from studies.collapse._design import ARMS, FULL, SMOKE, SMOKE_ARMS
from studies.collapse._figures import write_figures
from studies.collapse._store import cached_runs, read_results, write_results
from studies.collapse._table import table, with_tables
from studies.collapse._tetrahedron import follow_means

STUDIES = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.collapse", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images and epochs, three arms")
    parser.add_argument("--render", action="store_true", help="only the table and the figures, from the results")
    parser.add_argument("--seeds", type=int, default=len(FULL.seeds), help="number of seeds of the full study")
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    build = STUDIES.parent / "build" / "studies"
    out = options.out or (build if options.smoke else STUDIES)
    results = out / "results" / "collapse.json"
    if not options.render:
        size = SMOKE if options.smoke else replace(FULL, seeds=tuple(range(options.seeds)))
        arms = [ARMS[name] for name in SMOKE_ARMS] if options.smoke else list(ARMS.values())
        cache = (out if options.smoke else build) / "collapse.runs.jsonl"
        picture = follow_means(size)
        runs = list(cached_runs(arms, size, cache, lambda line: print(line, file=sys.stderr, flush=True)))
        write_results(results, runs, picture, size)
    found = read_results(results)
    readme = out / "README.md"
    if readme.exists():
        readme.write_text(with_tables(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    else:
        print(table(found), end="")
    for path in write_figures(found, out / "figures"):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
