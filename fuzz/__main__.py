"""Fuzz every target for a while, by coverage where atheris is installed and by plain mutations where it is not."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path

NAMES = ("safetensors", "torch", "index", "structure")
CORPUS = Path(__file__).parent / "corpus"
MORE_MEMORY = 2**29  # bytes of address space beside those of libraries: a pickle may ask for any number


def main() -> int:
    """Run every target in a process of its own; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--target", choices=NAMES, help="only this one")
    parser.add_argument("--found", type=Path, default=Path("build/fuzz"), help="where new inputs and failures are kept")
    parser.add_argument("--plain", action="store_true", help="mutations without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    plain = asked.plain or importlib.util.find_spec("atheris") is None
    names = (asked.target,) if asked.target else NAMES
    seconds = max(1, asked.seconds // len(names))
    if asked.child:
        if not plain:
            return guided(asked.target, seconds, asked.found)
        import fuzz.targets  # noqa: F401 (before the limit, since libraries need much address space)

        limit()
        return mutate(asked.target, seconds, asked.found)
    print(f"fuzz: {'plain mutations' if plain else 'atheris'}, {seconds} s each of {', '.join(names)}")
    failed = []
    for name in names:
        command = [sys.executable, "-m", "fuzz", "--child", "--target", name, "--seconds", str(seconds)]
        command += ["--found", str(asked.found), *(["--plain"] if plain else [])]
        if subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode:
            failed.append(name)
    print(f"fuzz: {'failed: ' + ', '.join(failed) if failed else 'nothing found'}")
    return int(bool(failed))


def guided(name: str, seconds: int, found: Path) -> int:
    """Fuzz by coverage; libFuzzer ends the process itself."""
    import atheris
    import torch  # not instrumented: only weyl is

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["weyl.checkpoints", "weyl.structure"]):
        from fuzz.targets import TARGETS
    limit()
    kept = found / name
    kept.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096", "-verbosity=0"]
    options += [f"-artifact_prefix={found}/{name}-failed-", "-print_final_stats=1", "-seed=1"]
    atheris.Setup([name, *options, str(kept), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()
    return 0


def limit() -> None:
    """Keep this process to little more memory than it has, as the process that reads pickles is kept."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def mutate(name: str, seconds: int, found: Path) -> int:
    """Change, insert, remove and splice bytes of the corpus at random, the same way every time."""
    from fuzz.targets import TARGETS

    chance = random.Random(1)
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    end, runs = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(chance, seeds)
        runs += 1
        try:
            TARGETS[name](data)
        except Exception:
            found.mkdir(parents=True, exist_ok=True)
            (found / f"{name}-failed-{runs}").write_bytes(data)
            traceback.print_exc()
            return 1
    print(f"fuzz: {name}: {runs} inputs")
    return 0


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One seed after some mutations.

    Parameters
    ----------
    chance : random.Random
        What decides.
    seeds : list of bytes
        Valid inputs.
    """
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                with contextlib.suppress(IndexError):
                    data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place:place] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del data[place : place + chance.randint(1, 16)]
            case 3:
                other = chance.choice(seeds)
                start = chance.randrange(len(other))
                data[place : place + 8] = other[start : start + chance.randint(1, 32)]
            case 4:
                data[place : place + 1] = chance.choice((b"\xff", b"\0", b"-1", b"9" * 20, b'"', b"{", b"[", b"1e999"))
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
