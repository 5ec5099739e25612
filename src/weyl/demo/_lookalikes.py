"""Networks beside a trained one: itself, a copy in disguise, what it became by more training, and a stranger."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weyl.actions import act
from weyl.checkpoints._write import weights_as_bytes
from weyl.data import Split
from weyl.demo._subjects import Subject
from weyl.demo._train import BATCH, trained
from weyl.identity import compare
from weyl.report import Lookalike, Lookalikes
from weyl.structure import Structure

__all__ = ["lookalikes_of"]

State = Mapping[str, Tensor]

STEPS = 20  # of further training
SLOWER = 3  # times, than the learning rate of the first


def lookalikes_of(
    subject: Subject, split: Split, structure: Structure, pair: tuple[nn.Module, nn.Module], *, seed: int
) -> Lookalikes:
    """Make networks that are a trained one in disguise or are not, and say what is seen of that.

    Parameters
    ----------
    subject : Subject
        The network.
    split : Split
        Images to train on a little further.
    structure : Structure
        Of the network.
    pair : tuple of nn.Module
        The first training and the second, which is the stranger; not changed.
    seed : int
        Of the disguises and the order of the batches.
    """
    begin = time.perf_counter()
    first = pair[0].state_dict()
    some = torch.randperm(len(split.train_y), generator=torch.Generator().manual_seed(seed))[: STEPS * BATCH]
    x, y = subject.shaped(split.train_x[some]), split.train_y[some]
    further = trained(pair[0], x, y, epochs=1, rate=subject.rate / SLOWER, seed=seed).state_dict()
    tuned = f"{len(some) // BATCH} more steps at a lower learning rate, then moved by a random element"
    others: tuple[tuple[str, str, str, State], ...] = (
        ("itself", "the same file", "identical", first),
        (
            "its copy in disguise",
            "moved by a random element of the whole group",
            "same function",
            act(structure.group.random(seed), structure, first),
        ),
        ("its fine-tune in disguise", tuned, "derived", act(structure.group.random(seed + 1), structure, further)),
        ("a stranger", "the second training: other initial weights", "unrelated", pair[1].state_dict()),
    )
    seen = [_seen(structure, first, *other) for other in others]
    return Lookalikes(tuple(seen), time.perf_counter() - begin)


def _seen(structure: Structure, first: State, title: str, made: str, expected: str, other: State) -> Lookalike:
    found = compare(structure, first, other)
    assert found.distance_before is not None
    same = _sha256(first) == _sha256(other)
    after = found.distance if found.element is not None and not found.element.is_identity else None
    cosine = _cosine(first, other)
    return Lookalike(title, made, expected, found.verdict, same, cosine, found.p_value, found.distance_before, after)


def _sha256(state: State) -> str:
    """That of the file which the state would be written to."""
    return hashlib.sha256(weights_as_bytes(state)).hexdigest()


def _cosine(a: State, b: State) -> float:
    names = [name for name, tensor in a.items() if tensor.is_floating_point()]
    x, y = (torch.cat([state[name].flatten().double() for name in names]) for state in (a, b))
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
