"""What acting with permutations, signs and scales costs against cloning the state dict: both sides of the ratio."""

import statistics
import time
from itertools import pairwise

import pytest
import torch

import weyl
from weyl.groups import Gauge, GaugeKind, Kind, Space
from weyl.structure import Block, Fixed, Structure, Units, Weight

LIMIT = 3


def structured(layers, widths):
    """A structure with permutations, signs and scales of every space, and a random state of its tensors.

    ``layers`` maps names to the spaces of dimensions, None for one that stays, and the sizes of those that stay.
    """
    spaces = tuple(Space(name, size, Kind.MONOMIAL) for name, size in widths.items())
    axes, weights = {}, {}
    kinds = (GaugeKind.SIGN, GaugeKind.SCALE)
    gauges = tuple(Gauge(f"{name} {kind.value}", name, kind) for name in widths for kind in kinds)
    for tensor, dims in layers.items():
        axes[tensor] = tuple(Units(dim, widths[dim]) if isinstance(dim, str) else Fixed(dim) for dim in dims)
        for gauge in gauges:
            found = [
                Weight(((place, Block(0, ((dim, widths[dim], 1),))),), place, 0, 1 if place == 0 else -1)
                for place, dim in enumerate(dims)
                if dim == gauge.space
            ]
            if found:
                weights.setdefault(gauge.name, {})[tensor] = tuple(found)
    state = {name: torch.randn([axis.size for axis in several]) for name, several in axes.items()}
    return Structure(spaces, axes, gauges=gauges, weights=weights), state


def mlp():
    """Three hidden layers of 2048."""
    dims = [784, "h0", "h1", "h2", 10]
    layers = {}
    for i, (before, after) in enumerate(pairwise(dims)):
        layers |= {f"{i}.weight": (after, before), f"{i}.bias": (after,)}
    return structured(layers, {"h0": 2048, "h1": 2048, "h2": 2048})


def resnet():
    """The tensors of ResNet-18: a stream a stage, an inner space a block, and its normalisations."""
    widths, layers = {"s0": 64}, {"stem": ("s0", 3, 7, 7), "stem.bn": ("s0",)}
    for stage, size in enumerate((64, 128, 256, 512)):
        stream, before = f"s{stage}", f"s{max(stage - 1, 0)}"
        widths[stream] = size
        for block in range(2):
            inner, entry = f"i{stage}{block}", before if block == 0 else stream
            widths[inner] = size
            layers[f"{inner}.conv1"], layers[f"{inner}.conv2"] = (inner, entry, 3, 3), (stream, inner, 3, 3)
            for norm in ("weight", "bias", "mean", "var"):
                layers[f"{inner}.bn1.{norm}"], layers[f"{inner}.bn2.{norm}"] = (inner,), (stream,)
        if stage:
            layers[f"{stream}.down"] = (stream, before, 1, 1)
    layers["fc"] = (1000, "s3")
    return structured(layers, widths)


def median(function, rounds=15):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.mark.parametrize("model", [mlp, resnet])
def test_act_against_cloning(benchmark, capsys, model):
    """Target: under 3 times a clone of the state dict."""
    structure, state = model()
    element = structure.group.random(0)
    benchmark.group = f"permutations, signs and scales of {model.__name__}"
    weyl.act(element, structure, state)
    clone = median(lambda: {name: tensor.clone() for name, tensor in state.items()})
    act = median(lambda: weyl.act(element, structure, state))
    benchmark.extra_info["clone"] = clone
    benchmark.pedantic(lambda: weyl.act(element, structure, state), rounds=5)
    again = median(lambda: {name: tensor.clone() for name, tensor in state.items()})
    with capsys.disabled():
        megabytes = sum(tensor.nbytes for tensor in state.values()) / 2**20
        verdict = "met" if act <= LIMIT * min(clone, again) else "MISSED"
        print(f"\n{model.__name__}, {megabytes:.0f} MiB, {torch.get_num_threads()} threads:")
        print(f"  act {act * 1e3:.1f} ms, clone {clone * 1e3:.1f} and {again * 1e3:.1f} ms, before and after")
        print(f"  ratio {act / min(clone, again):.2f} (target {LIMIT}: {verdict})")
