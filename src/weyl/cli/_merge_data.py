"""Data for ``weyl align``, ``merge`` and ``barrier``: a part of DATA in the shape of the model, labels checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from weyl.cli._measure import first_sentence, fitted, probe
from weyl.cli._work import Say
from weyl.data import Part
from weyl.errors import InputError, WeylError
from weyl.models import LoadedModel

__all__ = ["Feed", "guarded"]

State = Mapping[str, Tensor]


class Feed:
    """Batches of a part for a model; says how far it has been read, and refuses labels without an output.

    Parameters
    ----------
    part : Part
        The data.
    loaded : LoadedModel
        What they are for.
    say : callable
        Called with what is being done.
    batch_size : int
        Inputs at a time.

    Raises
    ------
    InputError
        If the model does not take the inputs.
    """

    def __init__(self, part: Part, loaded: LoadedModel, say: Say, batch_size: int) -> None:
        self._part = fitted(part.batched(batch_size), loaded)
        probe(loaded, self._part, part.shape)
        self.name, self.size, self.done = part.name, part.size, 0
        self._loaded, self._say = loaded, say
        self.title = ""
        self._outputs = self._counted()

    def estimate(self) -> float | None:
        """Seconds that one pass of the model would take, from its first batch; None where the size is not known."""
        if self.size is None:
            return None
        x, _ = next(iter(self._part))
        self._run(x)
        start = time.perf_counter()
        self._run(x)
        return (time.perf_counter() - start) * self.size / len(x)

    def _counted(self) -> int | None:
        """Number of outputs, where they are plain logits."""
        x, _ = next(iter(self._part.first(2)))
        result = self._run(x)
        return result.shape[1] if isinstance(result, Tensor) and result.ndim == 2 else None

    def _run(self, x: Tensor) -> object:
        like = next(self._loaded.module.parameters())
        with torch.no_grad():
            return self._loaded.module(x.to(like) if x.is_floating_point() else x.to(like.device))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.done = 0
        for x, y in self._part:
            top = int(y.max()) if len(y) else -1
            if self._outputs is not None and top >= self._outputs:
                raise InputError(
                    f"{self._loaded.name} on {self.name}: label {top} is out of range for a model of {self._outputs}"
                    f" outputs; give it {top + 1} outputs or more; if labels start at 1, subtract 1"
                )
            yield x, y
            self.done += len(y)
            total = f" of {self.size:,}" if self.size is not None else ""
            self._say(f"{self.title}: {self.done:,}{total} inputs")


def guarded(work: Callable[[State], Any], feed: Feed, loaded: LoadedModel) -> Callable[[State], Any]:
    """A function that runs the user's model on the user's data: what they raise is told in terms of both."""

    def run(state: State) -> Any:
        try:
            return work(state)
        except WeylError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"{loaded.name} stopped after {feed.done:,} inputs of {feed.name}: {type(error).__name__}:"
                f" {first_sentence(error)}; look at the inputs that follow"
            ) from error

    return run
