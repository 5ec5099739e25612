"""Train what is missing, run the study, write its results, its tables and its figure."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import weyl
from studies.identity import _design as design
from studies.identity._design import FULL, SMOKE
from studies.identity._networks import FOLDER
from studies.identity._run import study
from studies.identity._show import table, with_table, write_figure

STUDIES = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m studies.identity", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two small networks on digits")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--render", action="store_true", help="only the tables and the figure, from the results")
    parser.add_argument(
        "--out", type=Path, help="where to write; studies/ for the full study, build/studies for --smoke"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out or (STUDIES.parent / "build" / "studies" if options.smoke else STUDIES)
    results = out / "results" / "identity.json"
    if not options.render:
        size, folder = (SMOKE, out / "identity") if options.smoke else (FULL, FOLDER)
        if options.fresh:
            (folder / "rows.jsonl").unlink(missing_ok=True)
        _write(results, study(size, folder, tell))
    found = json.loads(results.read_text(encoding="utf-8"))
    if out == STUDIES and README.exists():
        README.write_text(with_table(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(table(found), end="")
    for path in write_figure(found, out / "figures"):
        print(path)
    return 0


def _write(path: Path, found: dict[str, Any]) -> None:
    """One JSON file, one row a line."""
    names = "LEARNING_RATE BATCH TUNED NOISE PRUNED CONTEXT VOCABULARY WIDTH HEADS LAYERS".split()
    head = {
        "study": "identity",
        "question": "Is a network told from another, whatever symmetry hides it?",
        "constants": {name.lower(): getattr(design, name) for name in names},
        "versions": {"weyl": weyl.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    parts += [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in found.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


def tell(line: str) -> None:
    """Show progress at once, on the channel that is not the result."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
