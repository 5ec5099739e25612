"""Run the study, write its results and its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studies.completeness._design import SAMPLES, SMOKE_SAMPLES
from studies.completeness._store import read_results, run_all, write_results
from studies.completeness._table import BEGIN, table, with_table

STUDIES = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.completeness", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two networks a family, fewer inputs")
    parser.add_argument("--render", action="store_true", help="only the table, from the results")
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (STUDIES.parent / "build" / "studies" if options.smoke else STUDIES)
    results = out / "results" / "completeness.json"
    if not options.render:
        samples = SMOKE_SAMPLES if options.smoke else SAMPLES
        runs = run_all(samples, 2 if options.smoke else None, lambda line: print(line, file=sys.stderr, flush=True))
        write_results(results, runs, samples)
    found = read_results(results)
    readme = out / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if BEGIN in text:
        readme.write_text(with_table(text, found), encoding="utf-8")
    else:
        print(table(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
