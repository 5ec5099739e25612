"""Refine a match by what counts, the loss half-way between two networks: a straight-through estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.actions._state import check_floating, check_seed, check_state, check_structure
from weyl.errors import NotFiniteError, UsageError
from weyl.groups import Element
from weyl.matching._batches import Batch, Network, check_data, check_model, read_batches, undisturbed
from weyl.matching._match import match
from weyl.merging._evaluator import evaluator, judged
from weyl.merging._interpolate import average
from weyl.merging._passes import normalisations
from weyl.merging._repair import reset_batch_norm
from weyl.structure import Structure

__all__ = ["Refined", "refine"]

State = dict[str, Tensor]
Nearest = Callable[[State, Element], Element]
# Training samples on which elements are compared.
COMPARED = 2048


@dataclass(frozen=True, eq=False)
class Refined:
    """What refinement found.

    Parameters
    ----------
    element : Element
        Moves b next to a; that of the start if nothing better was found.
    improved : bool
        Whether the loss half-way, on held-out data, is less than that of the start.
    before, after : float
        That loss for the start, and for the best element by training data, whether or not it is less.
    history : tuple of float
        Loss half-way, on its batch, at every step.
    """

    element: Element
    improved: bool
    before: float
    after: float
    history: tuple[float, ...]

    def __repr__(self) -> str:
        verdict = "improved" if self.improved else "not improved"
        return f"Refined({verdict}, loss half-way {self.before:.6g} -> {self.after:.6g}, {len(self.history)} steps)"


def refine(
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    model: nn.Module,
    data: Iterable[Any],
    held_out: Iterable[Any],
    start: Element | Any = None,
    loss: Callable[..., Tensor] | None = None,
    steps: int = 200,
    rate: float = 1e-2,
    method: Literal["straight-through"] = "straight-through",
    kinds: Iterable[str] = ("permute", "sign"),
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> Refined:
    r"""Look for an element that makes the loss half-way between two networks small.

    A free copy :math:`\tilde b` of the weights begins where the start puts b. Every step moves b to where it is nearest
    to the copy, by weight matching from where it was, and takes the gradient of the loss half-way there as if it were
    that of the copy, to which Adam applies it:

    .. math:: g = \arg\min_g \|\tilde b - g\,b\|, \qquad
        \tilde b \leftarrow \tilde b - \eta\, \nabla_{g b}\, L\big(\tfrac{1}{2}(a + g\,b)\big).

    Of all elements met, the start included, the best on training data (up to 2048 samples) is judged on held-out data.

    Batch normalisations use the statistics of the batch while gradients are taken; wherever elements are compared, they
    are estimated anew for the network half-way, on the same training samples (`reset_batch_norm`).

    Parameters
    ----------
    structure : Structure
        Of both networks.
    a, b : mapping of str to tensor
        Their states; not changed.
    model : nn.Module
        The network; its own weights are not used and it is left as it was.
    data, held_out : iterable
        Batches ``(inputs, targets, ...)`` that can be iterated again, as for `evaluator`: to learn from, and to judge
        by.
    start : Match or Element, optional
        Where to begin; the identity unless given. The better the match, the less there is to gain.
    loss : callable, optional
        ``loss(outputs, *targets)``; cross-entropy unless given.
    steps : int
        Batches to learn from; the data is read as often as that takes.
    rate : float
        Learning rate of Adam.
    method : {'straight-through'}
        The only one so far.
    kinds : collection of str
        What b may be moved by beside the start, as for `weyl.match`; permutations and signs unless given.
    seed : int
        Of the matching, and of loaders that shuffle; global random state is left as it was.
    progress : callable, optional
        Called after every step with the fraction that is done.

    Returns
    -------
    Refined

    Raises
    ------
    UsageError
        If an argument is not what it should be.
    StructureError, MismatchError
        If structure, states and model do not belong together.
    NotFiniteError
        If the loss is not finite.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023, arXiv
    2209.04836, Section 3.3 (learning permutations with a straight-through estimator).

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 4),))
    >>> a = net.state_dict()
    >>> b = weyl.act(structure.group.random(1, kinds=("permute",)), structure, a)
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> data = [(x, net(x).argmax(1))]
    >>> found = refine(structure, a, b, model=net, data=data, held_out=data, steps=5)
    >>> len(found.history), found.improved == (found.after < found.before)
    (5, True)
    """
    if method != "straight-through":
        raise UsageError(f"method must be 'straight-through', got {method!r}")
    _check_numbers(steps, rate)
    check_seed(seed)
    check_structure(structure)
    for state in (a, b):
        check_state(structure, state, structure.axes)
        check_floating(state, [name for name in structure.axes if a[name].is_floating_point()])
    check_model(model)
    for given in (data, held_out):
        check_data(given)
    element = structure.group.identity() if start is None else getattr(start, "element", start)
    options = {"kinds": (kinds,) if isinstance(kinds, str) else tuple(kinds), "seed": seed}
    state = dict(b)

    def nearest(latent: State, current: Element) -> Element:
        return _nearest(structure, latent, state, current, **options)

    search = _Search(structure, dict(a), state, model, loss)
    history = []
    with undisturbed(model, search.place):
        _seed(search.place, seed)
        search.compare_on(data)
        batches = islice(_again(data, search.place), steps)
        for value in search.walk(element, batches, rate, nearest):
            history.append(value)
            progress(len(history) / steps)
        before, after = search.judge(held_out, element), search.judge(held_out, search.best)
    improved = after < before
    return Refined(search.best if improved else element, improved, before, after, tuple(history))


def _check_numbers(steps: object, rate: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"steps must be a non-negative integer, got {steps!r}")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
        raise UsageError(f"rate must be a positive number, got {rate!r}")


class _Search:
    """Walks through elements, and remembers the best on a part of the training data."""

    def __init__(
        self, structure: Structure, a: State, b: State, model: nn.Module, loss: Callable[..., Any] | None
    ) -> None:
        self._structure, self._a, self._b = structure, a, b
        self._model, self._loss = model, loss
        self._norms = normalisations(model)
        self.place = next(tensor for tensor in a.values() if tensor.is_floating_point())
        self._part: list[Any] = []
        self._least = float("inf")
        self.best = structure.group.identity()

    def compare_on(self, data: Iterable[Any]) -> None:
        """Keep the first batches to compare elements on."""
        samples = 0
        for given in data:
            self._part.append(given)
            samples += next((len(t) for t in tree_leaves(given) if isinstance(t, Tensor) and t.ndim), 0)
            if samples >= COMPARED:
                return

    def judge(self, data: Iterable[Any], element: Element) -> float:
        """Loss half-way."""
        state = self._halfway(act(element, self._structure, self._b))
        if self._norms:
            state = reset_batch_norm(self._model, state, self._part)
        return _finite(float(evaluator(self._model, data, self._loss, {})(state)))

    def consider(self, element: Element) -> None:
        """Remember an element that is better than all before."""
        value = self.judge(self._part, element)
        if value < self._least:
            self._least, self.best = value, element

    def walk(self, element: Element, batches: Iterable[Batch], rate: float, nearest: Nearest) -> Iterator[float]:
        """Learn from every batch; the loss half-way on each."""
        self.consider(element)
        moved = act(element, self._structure, self._b)
        parameters = [name for name, _ in self._model.named_parameters() if name in moved]
        latent = {name: moved[name].detach().clone() for name in parameters if moved[name].is_floating_point()}
        optimizer = torch.optim.Adam(list(latent.values()), lr=rate)
        for batch in batches:
            value, gradients = self._gradients(moved, batch)
            for name, tensor in latent.items():
                tensor.grad = gradients[name]
            optimizer.step()
            new = nearest({**moved, **{name: tensor.detach() for name, tensor in latent.items()}}, element)
            if new != element:
                element = new
                moved = act(element, self._structure, self._b)
                self.consider(element)
            yield value

    def _halfway(self, moved: Mapping[str, Tensor]) -> State:
        return average([self._a, moved])

    def _gradients(self, moved: Mapping[str, Tensor], batch: Batch) -> tuple[float, dict[str, Tensor]]:
        """Loss half-way on a batch, and its gradient there, to which that by ``moved`` is proportional."""
        network = Network(self._model, self._halfway(moved))
        names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        leaves = {
            name: tensor.requires_grad_()
            for name, tensor in network.tensors.items()
            if name in names and tensor.is_floating_point()
        }
        # Of names that share a tensor, all must be one leaf.
        one = {tensor_identity(tensor): tensor for tensor in leaves.values()}
        network.tensors.update({name: one[tensor_identity(tensor)] for name, tensor in leaves.items()})
        training = undisturbed(self._model, self.place, self._norms.values())
        with training, torch.enable_grad(), _differentiable(self._model):
            value = judged(network(batch), batch, self._loss, {})["loss"]
            found = torch.autograd.grad(value, list(one.values()), materialize_grads=True)
        gradients = dict(zip(one, found, strict=True))
        return _finite(float(value)), {name: gradients[tensor_identity(tensor)] for name, tensor in leaves.items()}


def _differentiable(model: nn.Module) -> AbstractContextManager[Any]:
    """The quick kernels of recurrent layers have no gradients in evaluation mode."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def _nearest(structure: Structure, latent: State, b: State, start: Element, **options: Any) -> Element:
    """Where b is nearest to latent weights, from where it is."""
    return match(structure, latent, b, start=start, **options).element


def _seed(place: Tensor, seed: int) -> None:
    """Seed the generators that are put back afterwards: torch.manual_seed would reach those of every device."""
    torch.default_generator.manual_seed(seed)
    if place.device.type == "cuda":
        with torch.cuda.device(place.device):
            torch.cuda.manual_seed(seed)


def _again(data: Iterable[Any], place: Tensor) -> Iterator[Batch]:
    while True:
        yield from read_batches(data, place)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise NotFiniteError(f"the loss half-way is {value}: lower rate, or check the states and the data")
    return value
