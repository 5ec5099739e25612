"""How the real program ends when its output cannot be written, when it is interrupted, and when a path is odd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

WEYL = [sys.executable, "-m", "weyl.cli"]
OUTPUTS = (("simplex", "3"), ("simplex", "3", "--json"), ("count", "3"), ("count", "3", "--json"), ("--help",))


def shell(command: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a shell, whose ``"$@"`` it is."""
    return subprocess.run(["bash", "-c", command, "bash", *WEYL, *args], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("args", OUTPUTS)
def test_a_full_disk_is_one_line(args: tuple[str, ...]) -> None:
    ended = shell('"$@" >/dev/full', *args)
    assert ended.returncode == 4
    assert ended.stderr == (
        "weyl: error: cannot write: No space left on device; make room, or send the output elsewhere\n"
    )


@pytest.mark.parametrize("args", OUTPUTS)
def test_a_closed_pipe_is_no_answer(args: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run([*WEYL, *args], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("args", OUTPUTS[:2])
def test_a_closed_output_is_told(args: tuple[str, ...]) -> None:
    ended = shell('"$@" >&-', *args)
    assert ended.returncode == 4
    assert ended.stderr.startswith("weyl: error: cannot write: standard output is closed")
    assert len(ended.stderr.splitlines()) == 1
    assert shell('"$@" 2>&-', *args).returncode == 0  # the control: only results must have a place


def started(*args: str, folder: Path | None = None) -> subprocess.Popen[str]:
    """The program, at the moment at which it begins to run; ``folder`` comes first on the import path."""
    code = "import sys; from weyl.cli import main; print('up', flush=True); main(sys.argv[1:])"
    path = {"PYTHONPATH": str(folder)} if folder else {}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("command", [("verify", "transformer", "--trials", "1000"), ("demo", "--out", "{folder}")])
def test_an_interrupt_while_torch_is_imported(command: tuple[str, ...], seconds: float, tmp_path: Path) -> None:
    process = started(*(part.format(folder=tmp_path / "out") for part in command))
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "weyl: interrupted")


STAND_IN = """
import os, signal, sys, time
os.kill(os.getpid(), signal.SIGINT)
for _ in range(3):
    time.sleep(0.01)
print("imported whole", file=sys.stderr)
"""


def test_a_heavy_import_is_not_torn(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(STAND_IN)
    ended = started("inspect", "mlp", folder=tmp_path)
    _, err = ended.communicate(timeout=60)
    assert ended.returncode == 130
    assert [line for line in err.splitlines() if line] == ["imported whole", "weyl: interrupted"]


def test_other_code_is_interrupted_at_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(STAND_IN)
    ended = started("inspect", "own:make", folder=tmp_path)
    _, err = ended.communicate(timeout=60)
    assert ended.returncode == 130 and "imported whole" not in err and err.strip() == "weyl: interrupted"


def test_an_interrupt_that_a_library_turns_into_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(100):
                    pass
            except KeyboardInterrupt:
                raise ImportError("could not be set up") from None
            """
        )
    )
    ended = started("inspect", "own:make", folder=tmp_path)
    _, err = ended.communicate(timeout=60)
    assert (ended.returncode, err.strip()) == (130, "weyl: interrupted")


def test_an_ignored_interrupt_stays_ignored() -> None:
    ended = shell("trap '' INT; \"$@\" & sleep 0.5; kill -INT $!; wait $!", "simplex", "3")
    assert ended.returncode == 0 and "cross-entropy" in ended.stdout


def test_the_program_leaves_no_trace_in_this_process(weyl: Callable[..., Result]) -> None:
    before, finders = signal.getsignal(signal.SIGINT), list(sys.meta_path)
    assert weyl("count", "3").exit_code == 0
    assert signal.getsignal(signal.SIGINT) is before and sys.meta_path == finders


@pytest.mark.parametrize("args", ["--help", "--version", "inspect --help", "inspect", "count --help"])
def test_help_needs_no_heavy_import(args: str) -> None:
    code = textwrap.dedent(
        f"""
        import atexit, os, sys
        heavy = lambda: {{"torch", "numpy", "scipy", "matplotlib", "rich"}} & set(sys.modules)
        atexit.register(lambda: heavy() and os._exit(99))
        from weyl.cli import main
        main({args.split()!r}, prog_name="weyl")
        """
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == (2 if args == "inspect" else 0), ended.stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("~nosuchuser/x.py:make", "no such file: ~nosuchuser/x.py"),
        ("{folder}/" + "x" * 300 + ".py:make", "File name too long"),
        ("{folder}:make", "neither a dotted module name nor a path"),
        ("{folder}/loop.py:make", "Too many levels of symbolic links"),
        ("{folder}/folder.py:make", "not a regular file"),
        ("{folder}/nets.py/x.py:make", "Not a directory"),
    ],
)
def test_odd_paths_of_factories(weyl: Callable[..., Result], nets: str, model: str, says: str) -> None:
    folder = Path(nets).parent
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "folder.py").mkdir()
    result = weyl("inspect", model.format(folder=folder))
    assert result.exit_code == 3 and says in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_factory_in_a_folder_that_may_not_be_read(weyl: Callable[..., Result], nets: str) -> None:
    assert weyl("inspect", f"{nets}:net").exit_code == 0  # the control, as root
    Path(nets).parent.chmod(0o700)
    os.seteuid(65534)
    try:
        result = weyl("inspect", f"{nets}:net")
    finally:
        os.seteuid(0)
    assert result.exit_code == 3 and "Permission denied" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
