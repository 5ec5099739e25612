"""The command line: ``weyl inspect``, ``verify``, ``count``, ``orbit``, ``balance``, ``tangents`` and more.

Importing this package imports click and nothing else that is heavy; a command imports what it needs when it runs.
"""

from weyl.cli._commands import main

__all__ = ["main"]
