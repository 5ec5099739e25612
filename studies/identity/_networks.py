"""The networks: perceptrons and residual networks of the matching study, and small language models."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
from studies import matching
from studies.identity import _design as design
from studies.matching._train import checkpoint, images
from weyl.models import mlp

FOLDER = Path(__file__).parents[2] / "build" / "identity"
SHARED = Path(__file__).parents[2] / "build" / "matching"

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Family:
    """Networks of one architecture, trained on the same data from several seeds.

    Parameters
    ----------
    name, title : str
        For files, and for tables.
    make : callable
        A network whose values come from a seed.
    loss : callable
        Of a network on the training data of some rows; the rows are numbered from 0.
    rows, batch, steps : int
        Training data, how much of it a step sees, and steps of a training.
    head : str
        Module whose rows are the classes.
    args, kwargs, output
        Inputs of the network, and what of its result counts, as in `weyl.discover`.
    folds : bool
        Whether norms are folded into what reads them before networks are compared.
    """

    name: str
    title: str
    make: Callable[[int], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor]
    rows: int
    batch: int
    steps: int
    head: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Callable[[Any], Any] | None = None
    folds: bool = False

    def ready(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, State]:
        """The network as it is compared, and its state."""
        net = self.make(0).eval()
        net.load_state_dict(state)
        if self.folds:
            net = weyl.fold_norms(net, self.args, self.kwargs, output=self.output).model
        return net, {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    def structure(self, net: nn.Module) -> weyl.Structure:
        """The structure of the network as it is compared."""
        return weyl.discover(net, self.args, self.kwargs, output=self.output)


def family(name: str, budget: float = 1.0) -> Family:
    """Return the family of a name; the budget is a share of the steps of its training."""
    if name in LANGUAGE:
        return _language(name, budget)
    data, kind, width = name.split("-")
    if kind == "tanh":
        return _tanh(name, data, int(width), budget)
    arch = matching.FULL.arch(name)
    part = images(data, kind == "mlp")
    net = matching.network(arch, 0)
    head = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    return Family(
        name,
        f"{matching.SETS[data].split(',')[0]}, {matching.KINDS[kind].split(',')[0]}, {width}",
        lambda seed: matching.network(arch, seed),
        lambda net, rows: F.cross_entropy(net(part.x[rows]), part.y[rows]),
        len(part.y),
        256,
        max(1, round(budget * arch.epochs * (len(part.y) // 256))),
        head,
        (part.x[:2],),
    )


def _tanh(name: str, data: str, width: int, budget: float) -> Family:
    part = images(data, True)
    inputs = part.x.shape[1]
    net = mlp((inputs, width, width, 10), act="tanh").module
    return Family(
        name,
        f"{matching.SETS[data].split(',')[0]}, tanh perceptron, {width}",
        lambda seed: mlp((inputs, width, width, 10), act="tanh", seed=seed).module,
        lambda net, rows: F.cross_entropy(net(part.x[rows]), part.y[rows]),
        len(part.y),
        design.BATCH,
        max(1, round(budget * 20 * (len(part.y) // design.BATCH))),
        [path for path, module in net.named_modules() if isinstance(module, nn.Linear)][-1],
        (part.x[:2],),
    )


LANGUAGE = {"gpt2": "GPT-2, two layers of 64", "llama": "Llama, two layers of 64, norms folded"}
SOURCES = ("torch", "numpy", "scipy", "matplotlib", "pandas")


@cache
def text() -> Tensor:
    """Characters of the licences of installed packages."""
    found = []
    for package in SOURCES:
        for path in sorted(map(str, importlib.metadata.files(package) or ())):
            if "dist-info" in path and "licen" in path.lower():
                file = importlib.metadata.distribution(package).locate_file(path)
                found.append(Path(str(file)).read_bytes())
    codes = torch.frombuffer(bytearray(b"\n".join(found)), dtype=torch.uint8).long()
    return codes[codes < design.VOCABULARY]


def _language(name: str, budget: float) -> Family:
    codes = text()
    ids = codes[: 2 * design.CONTEXT].view(2, -1)
    reach = torch.arange(design.CONTEXT + 1)

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _language_model(name)

    def loss(net: nn.Module, rows: Tensor) -> Tensor:
        some = codes[rows[:, None] + reach]
        logits = net(input_ids=some[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten())

    return Family(
        name,
        LANGUAGE[name],
        make,
        loss,
        len(codes) - design.CONTEXT,
        design.BATCH,
        max(1, round(budget * 1000)),
        "lm_head",
        (),
        {"input_ids": ids, "use_cache": False},
        _logits,
        folds=name == "llama",
    )


def _logits(result: Any) -> Any:
    return result.logits


def _language_model(name: str) -> nn.Module:
    import transformers

    shared: dict[str, Any] = {"vocab_size": design.VOCABULARY, "tie_word_embeddings": False}
    if name == "gpt2":
        sizes = {"n_positions": design.CONTEXT, "n_embd": design.WIDTH, "n_head": design.HEADS}
        drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = transformers.GPT2Config(**shared, **sizes, **drops, n_layer=design.LAYERS)
        return transformers.GPT2LMHeadModel(config)
    sizes = {"hidden_size": design.WIDTH, "intermediate_size": 2 * design.WIDTH, "num_hidden_layers": design.LAYERS}
    heads = {"num_attention_heads": design.HEADS, "num_key_value_heads": design.HEADS // 2}
    config = transformers.LlamaConfig(**shared, **sizes, **heads, max_position_embeddings=design.CONTEXT)
    return transformers.LlamaForCausalLM(config)


def trained(of: Family, seed: int, folder: Path, tell: Callable[[str], None]) -> State:
    """Read a trained network, of the matching study if it is there; train it otherwise."""
    full = next((arch for arch in matching.FULL.archs if arch.name == of.name), None)
    if full is not None and checkpoint(SHARED, full, seed).exists():
        return load_file(checkpoint(SHARED, full, seed))
    path = folder / f"{of.name}-{of.steps}-{seed}.safetensors"
    if not path.exists():
        net = of.make(seed)
        loss = run(of, net, of.steps, seed=2000 + seed, falling=True)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
        tell(f"{path.stem}: loss {loss:.3f}")
    return load_file(path)


def tuned(of: Family, state: Mapping[str, Tensor], seed: int) -> State:
    """Train on for a share of the steps, with other batches, at the rate that the training began with."""
    net = of.make(0)
    net.load_state_dict(state)
    run(of, net, math.ceil(design.TUNED * of.steps), seed=5000 + seed, falling=False)
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def run(of: Family, net: nn.Module, steps: int, seed: int, *, falling: bool) -> float:
    """Train in place, and return the last loss."""
    net.train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=design.LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if falling else None
    last = torch.zeros(())
    for _ in range(steps):
        optimiser.zero_grad()
        last = of.loss(net, torch.randint(of.rows, (of.batch,), generator=generator))
        last.backward()
        optimiser.step()
        if schedule is not None:
            schedule.step()
    return float(last.detach())
