"""Fingerprint a file of weights in a process of its own, and print what that took as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

import weyl
from weyl.checkpoints import OpenWeights, open_weights

__all__ = ["Peeking", "layers_of"]


def layers_of(count: int, width: int) -> nn.Sequential:
    """Linear layers with a tanh after each."""
    parts = ((nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(count))
    return nn.Sequential(*chain.from_iterable(parts))


class Peeking(Mapping[str, Tensor]):
    """An open file that says a tensor's shape without reading it, as `weyl.fingerprint` asks."""

    def __init__(self, opened: OpenWeights) -> None:
        self._opened = opened

    def peek(self, name: str) -> Tensor:
        """A tensor without values."""
        info = self._opened.info(name)
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def __getitem__(self, name: str) -> Tensor:
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)


def main() -> None:
    """Arguments: the file, layers, width, threads, and ``plain`` or ``peek``."""
    path, (count, width, threads), how = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5]
    torch.set_num_threads(threads)
    with torch.device("meta"):
        structure = weyl.discover(layers_of(count, width), (torch.empty(1, width),))
    small = layers_of(2, 8)
    weyl.fingerprint(weyl.discover(small, (torch.zeros(1, 8),)), small.state_dict())  # what imports take is not counted
    before, start = _peak(), time.perf_counter()
    with open_weights(Path(path)) as weights:
        found = weyl.fingerprint(structure, Peeking(weights) if how == "peek" else weights)
    took = time.perf_counter() - start
    print(json.dumps({"fingerprint": found, "before": before, "after": _peak(), "seconds": took}))


def _peak() -> int:
    """Largest resident memory of this program so far, in bytes.

    What getrusage gives would include the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
