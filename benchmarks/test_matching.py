"""What matching costs: against the published loop, the package rebasin, and plain forward passes of both networks."""

import json
import statistics
import subprocess
import time
from pathlib import Path

import pytest
import torch
from benchmarks._networks import NETWORKS, drawn
from benchmarks._plain_matching import match_plainly

import weyl

BENCHMARKS = Path(__file__).parent
REBASIN = BENCHMARKS.parent / "build" / "rebasin-venv" / "bin" / "python"
ROUNDS = 3
LIMIT = 2


def pair(name):
    """Structure, two independent random networks, their states, and inputs."""
    (a, x), (b, _) = drawn(name, 0), drawn(name, 1)
    return weyl.discover(a, (x[:2],)), a, b, x


def timed(function):
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def alternating(*functions, rounds=ROUNDS):
    """Median seconds of each, taking turns, so that a slow spell of the machine meets all of them."""
    times = [[timed(function)[0] for function in functions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def inner(structure, a, b):
    """Inner product of two states over all tensors that have a space, as the published loop maximises it."""
    names = {name for space in structure.spaces for name, _ in space.occurrences}
    return sum(float((a[name].double() * b[name].double()).sum()) for name in sorted(names))


def function_error(net, before, after, x):
    """Relative change of what a network returns, when its state is changed."""
    with torch.no_grad():
        net.load_state_dict(before)
        old = net(x)
        net.load_state_dict(after)
        new = net(x)
        net.load_state_dict(before)
    return float((old - new).abs().max() / old.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_match_against_the_published_loop(benchmark, capsys, name):
    """The same start and the same order of the spaces, so that both take the same way."""
    structure, net, other, x = pair(name)
    a, b = net.state_dict(), {key: value.clone() for key, value in other.state_dict().items()}

    def match():
        return weyl.match(structure, a, b, kinds=("permute",), start="identity", seed=0)

    def plain():
        return match_plainly(structure, a, b, seed=0)

    found, loop = match(), plain()  # imports and workspaces of the first call are not the cost of a call
    ours, theirs = alternating(match, plain)
    benchmark.extra_info.update(match=ours, published=theirs)
    benchmark.pedantic(match, rounds=1)
    aligned = weyl.act(found.element, structure, b)
    reached, error = inner(structure, a, aligned), function_error(other, b, aligned, x)
    with capsys.disabled():
        print(f"\n{name}, {len(structure.spaces)} spaces, {torch.get_num_threads()} threads, independent networks:")
        print(f"  match {ours:.3f} s, published loop {theirs:.3f} s: {theirs / ours:.1f} times as fast")
        print(f"  objective {reached:.4f}, published loop {loop.objective:.4f}; function error {error:.1e}")
        print(f"  published loop: {loop.steps} steps in {loop.sweeps} sweeps, {loop.idle} of them gained nothing")
    assert error < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_match_against_rebasin(benchmark, capsys, name):
    """Both start at the identity; rebasin draws its order of the layers itself."""
    if not REBASIN.exists():
        pytest.skip(
            f"no {REBASIN.relative_to(BENCHMARKS.parent)}; make it with python -m venv build/rebasin-venv and, in it,"
            " pip install rebasin==0.0.47 torch -c constraints.txt"
        )
    structure, net, other, x = pair(name)
    a, b = net.state_dict(), {key: value.clone() for key, value in other.state_dict().items()}
    command = [str(REBASIN), str(BENCHMARKS / "_rebasin.py"), name, str(torch.get_num_threads())]
    theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    seconds, found = timed(lambda: weyl.match(structure, a, b, kinds=("permute",), start="identity", seed=0))
    error = function_error(other, b, weyl.act(found.element, structure, b), x)
    finding, _ = timed(lambda: weyl.discover(net, (x[:2],)))
    benchmark.extra_info.update(match=seconds, discovery=finding, error=error, rebasin=theirs)
    benchmark.pedantic(lambda: weyl.match(structure, a, b, kinds=("permute",), start="identity", seed=0), rounds=1)
    with capsys.disabled():
        print(f"\n{name}, function error max|f(b) - f(matched b)| / max|f(b)| in evaluation mode:")
        print(f"  match   {seconds:7.3f} s and {finding:.2f} s for the structure, error {error:.1e}")
        spent, tracing, wrong = theirs["seconds"], theirs["tracing"], theirs["error"]
        print(f"  rebasin {spent:7.3f} s and {tracing:.2f} s for tracing, error {wrong:.1e}")
        print(f"  {spent / seconds:.1f} times as fast")
    assert error < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_cross_moments_against_forward_passes(benchmark, capsys, name):
    """Target: under 2 times what the forward passes of the two networks cost alone."""
    from weyl.matching._activations import cross_moments

    structure, net, other, x = pair(name)
    a, b = net.state_dict(), other.state_dict()
    generator = torch.Generator().manual_seed(2)
    images, batch = (10_000, 500) if x.ndim == 2 else (128, 32)
    data = list(torch.randn(images, *x.shape[1:], generator=generator).split(batch))

    def moments():
        return cross_moments(structure, net, a, b, data)

    @torch.no_grad()
    def forward():
        for batch in data:
            net(batch), other(batch)

    moments(), forward()
    ours, plain = alternating(moments, forward)
    benchmark.extra_info.update(moments=ours, forward=plain)
    benchmark.pedantic(moments, rounds=1)
    with capsys.disabled():
        verdict = "met" if ours <= LIMIT * plain else "MISSED"
        print(f"\n{name}, {images} inputs, {torch.get_num_threads()} threads:")
        print(f"  cross moments {ours:.3f} s, forward passes of both {plain:.3f} s")
        print(f"  ratio {ours / plain:.2f} (target {LIMIT}: {verdict})")
