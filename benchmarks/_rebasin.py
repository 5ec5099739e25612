"""Weight matching by the package ``rebasin``, run by an environment of its own: ``python _rebasin.py NETWORK THREADS``.

Prints JSON: the seconds for finding the permutations and for tracing, and the error of the function that it returns.
"""

from __future__ import annotations

import copy
import json
import sys
import time

import torch


def main(name: str) -> None:
    """Match the second of two independent networks with the first."""
    # Here and not above: the environment that collects benchmarks has neither.
    from _networks import drawn
    from rebasin import PermutationCoordinateDescent

    (a, x), (b, _) = drawn(name, 0), drawn(name, 1)
    before = copy.deepcopy(b)
    torch.manual_seed(0)
    start = time.perf_counter()
    descent = PermutationCoordinateDescent(a, b, x)
    traced = time.perf_counter()
    descent.rebasin()
    done = time.perf_counter()
    with torch.no_grad():
        old, new = before.eval()(x), b.eval()(x)
    error = float((old - new).abs().max() / old.abs().max())
    print(json.dumps({"seconds": done - traced, "tracing": traced - start, "error": error}))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    main(sys.argv[1])
