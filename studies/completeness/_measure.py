"""One network: dimension of the group that is discovered, rank of the Jacobian that is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import weyl
from studies.completeness._design import BIAS, CLEAR, FAMILIES, SPREAD, WEIGHT, Family, draw
from weyl.orbits import tangents

CHUNK = 25


def measure(name: str, seed: int, samples: int) -> dict[str, Any]:
    """Measure one network of a family; the same seed gives the same network.

    Returns
    -------
    dict
        ``dimension`` of the group; ``at_rest``, that of its part that leaves buffers alone; ``beside``, what theory
        adds; ``deficiency``, P minus the rank; ``clear``, whether the rank is beyond doubt; ``switching``, whether
        every ReLU is on for some input and off for another.
    """
    family = FAMILIES[name]
    sizes = draw(family, seed)
    net = random_network(family, seed)
    x = inputs(family, seed, samples)
    structure = weyl.discover(net, (x[:2],))
    with relus(net) as switching:
        net(x)
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated sample by sample
        found = weyl.functional_dimension(net, None, x, chunk=CHUNK)
    return {
        "family": name,
        "seed": seed,
        "sizes": {**asdict(sizes), "hidden": list(sizes.hidden)},
        "samples": samples,
        "parameters": found.parameters,
        "dimension": structure.group.dimension,
        "at_rest": at_rest(structure, net),
        "beside": family.beside(sizes),
        "rank": found.rank,
        "deficiency": found.deficiency,
        "gap": found.gap if math.isfinite(found.gap) else None,
        "clear": found.gap > CLEAR,
        "switching": all(switching),
    }


def random_network(family: Family, seed: int) -> nn.Module:
    """All parameters and buffers in general position, in float64."""
    net = family.make(draw(family, seed)).double().eval()
    generator = torch.Generator().manual_seed(1000 + seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                values = values.abs() + 0.5
            elif tensor.ndim > 1:
                values = values * WEIGHT / math.sqrt(tensor.shape[1])
            elif "bias" in name:
                values = values * BIAS
            tensor.copy_(values)
    return net


def inputs(family: Family, seed: int, samples: int) -> Tensor:
    """Normal inputs, shape (samples, inputs) or (samples, tokens, inputs)."""
    generator = torch.Generator().manual_seed(2000 + seed)
    tokens = (family.tokens,) if family.tokens else ()
    shape = (samples, *tokens, draw(family, seed).inputs)
    return SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)


@contextmanager
def relus(net: nn.Module) -> Iterator[list[bool]]:
    """Note, for every ReLU that runs, whether all its units are on for some sample and off for another."""
    seen: list[bool] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        on = (args[0] > 0).flatten(0, -2)
        seen.append(bool((on.any(0) & ~on.all(0)).all()))

    handles = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, nn.ReLU)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def at_rest(structure: weyl.Structure, net: nn.Module) -> int:
    r"""Dimension of the directions of the group that move no buffer: rank of all minus rank on buffers.

    The Jacobian is one with respect to parameters; a direction that moves a running mean as well is none of its kernel.
    """
    state = net.state_dict()
    trained = dict(net.named_parameters())
    rows = [tangent.direction for tangent in tangents(structure, state)]
    if not rows:
        return 0

    def rank(names: list[str]) -> int:
        flat = [torch.cat([row.get(n, torch.zeros_like(state[n])).flatten() for n in names]) for row in rows]
        return int(torch.linalg.matrix_rank(torch.stack(flat)))

    floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
    buffers = [name for name in floating if name not in trained]
    return rank(floating) - (rank(buffers) if buffers else 0)
