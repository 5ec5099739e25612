"""``python -m weyl.cli`` is ``weyl``."""

from weyl.cli import main

if __name__ == "__main__":
    main(prog_name="weyl")
