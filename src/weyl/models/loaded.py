"""A module together with inputs it runs on, and the two small helpers that every way of loading needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weyl._text import near, one_line

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedModel", "near", "one_line", "seeded"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A module and example inputs: ``module(*args, **kwargs)`` runs.

    Attributes
    ----------
    module : torch.nn.Module
        The model, in evaluation mode when it comes from `load_model` or a built-in factory.
    args : tuple
        Positional example inputs.
    kwargs : mapping of str to object
        Keyword example inputs.
    name : str
        How to call the model in a table, an error message or a report.
    output : callable, optional
        Picks what counts as the result, where the module returns more than its answer.

    Examples
    --------
    >>> from weyl.models import mlp
    >>> loaded = mlp(widths="4-3-2")
    >>> tuple(loaded.module(*loaded.args, **loaded.kwargs).shape)
    (2, 2)
    """

    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    output: Callable[[Any], Any] | None = None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and put the old state back after it.

    Only the CPU generator is touched: ``torch.manual_seed`` would also reseed every accelerator, and no
    model is initialised on one here.

    Parameters
    ----------
    seed : int
        Seed of the initial weights.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     first = torch.randn(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    import torch

    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
