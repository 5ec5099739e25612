"""How long discovery takes: against the size of the graph, and on a model too large to allocate."""

import math
import subprocess
import sys
import time

import pytest
import torch

import weyl
from weyl.trace import analyse, capture, module_tensors

transformers = pytest.importorskip("transformers")

DEPTHS = (2, 4, 8, 16, 32, 64)


def target(what, value, limit, unit):
    """One line with a measured value, its target, and whether it was met."""
    return f"{what}: {value:.2f} {unit} (target {limit} {unit}: {'met' if value <= limit else 'MISSED'})"


def llama(layers, **sizes):
    config = transformers.LlamaConfig(num_hidden_layers=layers, use_cache=False, **sizes)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    return model.eval(), {"input_ids": torch.zeros(1, 8, dtype=torch.long, device="meta")}


SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_analysis_of_a_graph_of_1000_nodes(benchmark, capsys):
    """Target: under 0.3 s after the export."""
    model, inputs = llama(13, **SMALL)
    program, tensors = capture(model, (), inputs), module_tensors(model)
    nodes = len(program.graph_module.graph.nodes)
    benchmark.extra_info["nodes"] = nodes
    benchmark.group = f"analysis after export, {nodes} nodes"
    benchmark(lambda: analyse(program, tensors))
    with capsys.disabled():
        print("\n" + target(f"analysis of {nodes} nodes, median", benchmark.stats.stats.median, 0.3, "s"))


def test_analysis_grows_linearly(benchmark, capsys):
    """Exponent of time against the number of nodes over 2 to 64 layers; 1 is linear."""
    points = []
    for depth in DEPTHS:
        model, inputs = llama(depth, **SMALL)
        program, tensors = capture(model, (), inputs), module_tensors(model)
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            analyse(program, tensors)
            best = min(best, time.perf_counter() - start)
        points.append((depth, len(program.graph_module.graph.nodes), best))
    logs = [(math.log(nodes), math.log(seconds)) for _, nodes, seconds in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
    with capsys.disabled():
        print("\nlayers   nodes   analysis after export")
        for depth, nodes, seconds in points:
            print(f"{depth:6d} {nodes:7d}   {seconds * 1e3:8.1f} ms   {seconds / nodes * 1e6:6.1f} µs a node")
        print(f"exponent of time against nodes: {slope:.2f}")
    benchmark.extra_info["exponent"] = slope
    benchmark.pedantic(lambda: analyse(program, tensors), rounds=3)


LARGE = """
import resource, time, torch, transformers, weyl
start = time.perf_counter()
config = transformers.LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                                  num_attention_heads=32, num_key_value_heads=32, use_cache=False)
with torch.device("meta"):
    model = transformers.LlamaForCausalLM(config)
tokens = torch.zeros(1, 8, dtype=torch.long, device="meta")
structure = weyl.discover(model, (), {"input_ids": tokens}, output=lambda result: result.logits)
seconds = time.perf_counter() - start
parameters = sum(p.numel() for p in model.parameters())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(parameters / 1e9, seconds, peak, structure.group.order.log10)
"""


def test_seven_billion_parameters_on_the_meta_device(benchmark, capsys):
    """Target: 60 s and 2 GiB in all, a fresh process with its imports included."""

    def run():
        return subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout

    line = benchmark.pedantic(run, rounds=1)
    billions, seconds, peak, log10 = map(float, line.split())
    with capsys.disabled():
        print(f"\n{billions:.2f} billion parameters, log10 of the order {log10:.1f}")
        print(target("discovery", seconds, 60, "s"))
        print(target("peak memory", peak, 2, "GiB"))


@pytest.mark.parametrize("operation", ["act", "clone"])
def test_act_against_copying_the_state(benchmark, operation):
    """Both sides of the ratio: moving every tensor along the orbit, and copying the state dict."""
    benchmark.group = "one pass over the state of a 4096-wide MLP"
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 4096),
        torch.nn.ReLU(),
        torch.nn.Linear(4096, 4096),
        torch.nn.ReLU(),
        torch.nn.Linear(4096, 10),
    )
    structure = weyl.discover(model, (torch.zeros(1, 784),))
    state, element = model.state_dict(), structure.group.random(0)
    if operation == "act":
        benchmark(lambda: weyl.act(element, structure, state))
    else:
        benchmark(lambda: {name: tensor.clone() for name, tensor in state.items()})
