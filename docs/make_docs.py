"""Write what the documentation takes from the program: ``docs/cli.md`` and the picture of the README.

python docs/make_docs.py            # both; the picture trains a network for some seconds
python docs/make_docs.py --cli      # the command line alone
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from weyl.cli import main

HERE = Path(__file__).parent
HEAD = """# The command line

Written by `python docs/make_docs.py` from the commands themselves; `tests/docs` checks that it is current.
Data goes to stdout, everything else to stderr; `--json` writes JSON.

| exit code | meaning |
|---|---|
| 0 | yes, or done |
| 1 | no: the symmetry does not hold, or the weights do not fit the model |
| 2 | usage |
| 3 | bad or unsafe input, or an output file that exists |
| 4 | inconclusive, or over a limit |
| 70 | a bug in weyl |
| 130 | interrupted |
| 141 | whoever read the output stopped reading |
"""


def command_line() -> str:
    """The reference of every command, in Markdown."""
    context = click.Context(main, info_name="weyl", terminal_width=80, **main.context_settings)
    parts = [HEAD, _section("weyl", main.get_help(context))]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        parts.append(_section(f"weyl {name}", command.get_help(inner)))
    return "\n".join(parts)


def picture() -> str:
    """The loss between a minimum and its own twin: a file of its own."""
    from weyl.demo import run
    from weyl.report.figures import barrier, standalone

    return standalone(barrier(run().networks[0].path, name="a trained multilayer perceptron"))


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    (HERE / "cli.md").write_text(command_line(), encoding="utf-8")
    if "--cli" not in sys.argv[1:]:
        (HERE / "barrier.svg").write_text(picture(), encoding="utf-8")
