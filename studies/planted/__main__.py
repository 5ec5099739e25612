"""Run the study, write its results, its tables and its figure."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studies.planted._run import FULL, SMOKE, study
from studies.planted._show import table, with_table, write_figure

STUDIES = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.planted", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small blocks, few trials")
    parser.add_argument("--render", action="store_true", help="only the tables and the figure, from the results")
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (STUDIES.parent / "build" / "studies" if options.smoke else STUDIES)
    results = out / "results" / "planted.json"
    if not options.render:
        results.parent.mkdir(parents=True, exist_ok=True)
        found = study(SMOKE if options.smoke else FULL)
        rows = {name: ",\n".join(json.dumps(row) for row in several) for name, several in found.items()}
        text = ",\n".join(f'"{name}": [\n{body}\n]' for name, body in rows.items())
        results.write_text(f"{{{text}}}\n", encoding="utf-8")
    found = json.loads(results.read_text(encoding="utf-8"))
    if out == STUDIES:
        README.write_text(with_table(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(table(found), end="")
    for path in write_figure(found, out / "figures"):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
