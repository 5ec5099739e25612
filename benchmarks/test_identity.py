"""What it costs to recognise a network: fingerprints against plain hashes, copies against an alignment, and memory."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks._fingerprint_memory import layers_of
from benchmarks._networks import drawn
from benchmarks._plain_matching import match_plainly
from benchmarks.test_matching import alternating
from safetensors.torch import save_file
from torch import nn

import weyl

BENCHMARKS = Path(__file__).parent
HALF, TIMES = 0.5, 20
MIB = 2**20
MOST = 400 * MIB
THREADS = sorted({1, torch.get_num_threads()})


@pytest.fixture(params=THREADS)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def gpt2():
    """GPT-2 small with random values: its structure and state."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    inputs = {"input_ids": torch.arange(16).view(2, 8), "use_cache": False}
    return weyl.discover(net, (), inputs, output=lambda result: result.logits), net.state_dict()


def hashed(state):
    """SHA-256 of the bytes of all tensors, tied ones once."""
    found, seen = hashlib.sha256(), set()
    for tensor in state.values():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found.update(memoryview(tensor.numpy()).cast("B"))
    return found.hexdigest()


def test_fingerprint_against_sha256(benchmark, capsys, gpt2, threads):
    """Target: at least half as fast as a hash of the same bytes."""
    structure, state = gpt2
    ours, plain = alternating(lambda: weyl.fingerprint(structure, state), lambda: hashed(state))
    benchmark.extra_info.update(fingerprint=ours, sha256=plain)
    benchmark.pedantic(lambda: weyl.fingerprint(structure, state), rounds=1)
    size = sum({t.data_ptr(): t.nbytes for t in state.values()}.values())
    with capsys.disabled():
        verdict = "met" if plain >= HALF * ours else "MISSED"
        print(f"\nGPT-2 small, {size / MIB:.0f} MiB, {threads} threads:")
        print(f"  fingerprint {ours:.3f} s, SHA-256 {plain:.3f} s")
        print(f"  ratio of speed {plain / ours:.2f} (target {HALF}: {verdict})")


def wide():
    """Perceptron with three hidden layers of 2,048, and inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = [(784, 2048), (2048, 2048), (2048, 2048)]
        hidden = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(2048, 10)), torch.zeros(2, 784)


NETWORKS = {"MLP 3x2048": wide, "VGG-16-BN": lambda: drawn("VGG-16-BN", 0)}


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_against_an_alignment(benchmark, capsys, name, threads):
    """Target: 20 times as fast as the published loop, which finds the permutation and says nothing about it."""
    net, x = NETWORKS[name]()
    structure, a = weyl.discover(net, (x,)), net.state_dict()
    copies = {
        kind: weyl.act(structure.group.random(seed=1, kinds=kinds), structure, a)
        for kind, kinds in (("permuted", ("permute",)), ("whole group", None))
    }
    tasks = {
        "permuted": lambda: weyl.compare(structure, a, copies["permuted"]),
        "whole group": lambda: weyl.compare(structure, a, copies["whole group"]),
        "fingerprints": lambda: weyl.fingerprint(structure, a) == weyl.fingerprint(structure, copies["permuted"]),
        "loop": lambda: match_plainly(structure, a, copies["permuted"]),
    }
    verdicts = {kind: tasks[kind]().verdict for kind in copies}
    times = dict(zip(tasks, alternating(*tasks.values()), strict=True))
    benchmark.extra_info.update(times)
    benchmark.pedantic(tasks["permuted"], rounds=1)
    with capsys.disabled():
        print(f"\n{name}, {threads} threads, published loop {times['loop']:.3f} s:")
        for kind in (*copies, "fingerprints"):
            ratio = times["loop"] / times[kind]
            verdict = "met" if ratio >= TIMES else "MISSED"
            print(f"  {kind}: {times[kind]:.3f} s, {ratio:.1f} times as fast (target {TIMES}: {verdict})")
    assert set(verdicts.values()) == {"same function"} and tasks["fingerprints"]()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of 2 GiB: 32 layers of 4,096 × 4,096."""
    count, width = 32, 4096
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        names = list(layers_of(count, width).state_dict())
    save_file({name: torch.randn(width, width, generator=generator) for name in names}, path)
    yield path, count, width
    path.unlink()


@pytest.mark.parametrize("how", ["plain", "peek"])
def test_memory_of_a_fingerprint(benchmark, capsys, large, how):
    """Target: at most 400 MiB more than the largest tensor.

    ``plain`` hands over the open file, ``peek`` wraps it so that shapes are known without reading.
    """
    path, count, width = large
    command = [sys.executable, str(BENCHMARKS / "_fingerprint_memory.py"), str(path)]
    command += [str(count), str(width), str(torch.get_num_threads()), how]

    def run():
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    found = benchmark.pedantic(run, rounds=1)
    more = found["after"] - found["before"] - 4 * width**2
    benchmark.extra_info.update(found)
    with capsys.disabled():
        verdict = "met" if more <= MOST else "MISSED"
        print(f"\n2 GiB in {count} tensors, {how}: {found['seconds']:.1f} s")
        print(f"  {more / MIB:.0f} MiB more than the largest tensor (target {MOST // MIB}: {verdict})")
        print(f"  peak of the process {found['after'] / MIB:.0f} MiB")
