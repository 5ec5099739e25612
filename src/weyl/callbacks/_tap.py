"""Hooks that catch what goes into and comes out of the classifier."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from weyl.errors import UsageError
from weyl.geometry._measure import returns, tensors

__all__ = ["Catch", "Listener", "Tap"]

# What wrappers for data parallelism and compilation put before every name.
ROOT = ""
WRAPPED = re.compile(r"^((module|_orig_mod)\.)+")


class Catch(NamedTuple):
    """Input and output of the classifier in one forward pass, detached."""

    features: Tensor
    logits: Tensor


class Listener:
    """A forward hook of one module: copies of the module, and saved ones, carry a hook that does nothing.

    Otherwise an average of the weights, made by ``copy.deepcopy``, would be heard too, and a module could not be
    pickled while it is watched.

    Parameters
    ----------
    module : nn.Module or None
        The one to listen to.
    call : callable or None
        Gets positional arguments, keyword arguments and the output.
    """

    def __init__(
        self, module: nn.Module | None, call: Callable[[tuple[Any, ...], dict[str, Any], Any], None] | None
    ) -> None:
        self._module, self._call = module, call

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        # Once it is removed, in the middle of a pass, torch calls it a last time without keyword arguments.
        if self._call is not None and module is self._module and len(rest) == 2:
            self._call(args, *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Listener, (None, None)


class Tap:
    """Catches features and logits at the classifier of a model.

    The classifier is the named layer; otherwise, among the modules with a weight of shape (k, d), the one called last
    before the first :meth:`take` whose output the model returned, up to a shift of each row or a softmax. Where the
    model itself was not called, or changes its logits, the one called last. The model's outputs and gradients are not
    touched.

    Parameters
    ----------
    model : nn.Module
        The model.
    num_classes : int
        Number of classes k.
    layer : str, optional
        Name of the classifier, as in ``model.named_modules()``; with or without the prefix of a wrapper.

    Raises
    ------
    UsageError
        If there is no such layer, or no module that can be the classifier.
    """

    def __init__(self, model: nn.Module, num_classes: int, layer: str | None = None) -> None:
        modules = _modules(model)
        if layer is None:
            self._candidates = {name: m for name, m in modules.items() if _is_candidate(m, num_classes)}
            if not self._candidates:
                raise UsageError(
                    f"{type(model).__name__} has no module with a weight of shape ({num_classes}, d); "
                    "name the classifier with layer="
                )
        else:
            self._candidates = {layer: _named(modules, layer)}
        self._num_classes = num_classes
        self._handles: dict[str, RemovableHandle] = {}
        self._model = model
        self._last: tuple[str, Catch] | None = None
        self._ran: dict[str, Catch] = {}
        self._doubtful = False
        # Known once a pass was taken; a named layer is known at once.
        self.layer: str | None = layer

    @property
    def is_open(self) -> bool:
        """Whether hooks are in place."""
        return bool(self._handles)

    def open(self) -> None:
        """Put the hooks in place."""
        if not self.is_open:
            for name, module in self._candidates.items():
                listener = Listener(module, partial(self._catch, name))
                self._handles[name] = module.register_forward_hook(listener, with_kwargs=True)
            if self.layer is None:
                listener = Listener(self._model, self._compare)
                self._handles[ROOT] = self._model.register_forward_hook(listener, with_kwargs=True)

    def close(self) -> None:
        """Remove every hook and let go of what was caught."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self.forget()

    def take(self) -> Catch:
        """What the last forward pass left; each pass can be taken once.

        Raises
        ------
        UsageError
            If the classifier was not called since.
        """
        if self._last is None:
            names = ", ".join(repr(name) for name in self._candidates)
            raise UsageError(
                f"no classifier was called since the last labels (of {names}); give the labels once after each "
                "forward pass, or name the classifier with layer="
            )
        if self._doubtful and self.layer is None:
            names = ", ".join(repr(name) for name in self._candidates)
            raise UsageError(f"the model returns the output of no layer of this shape ({names}); name it with layer=")
        name, catch = self._last
        self._last = None
        self.settle(name)
        return catch

    def settle(self, layer: str) -> None:
        """Take a candidate for the classifier, unless one was named or found."""
        if self.layer is None:
            self.layer = layer
            for other in set(self._handles) - {layer}:
                self._handles.pop(other).remove()
            self._candidates = {layer: self._candidates[layer]}

    def forget(self) -> None:
        """Drop what the last forward pass left."""
        self._last, self._ran, self._doubtful = None, {}, False

    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the classifier as they are now; None where it has none of the usual shape."""
        module = self._candidates[self.layer] if self.layer is not None else None
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[0] != self._num_classes:
            return None, None
        return weight.detach(), bias.detach() if isinstance(bias, Tensor) else None

    def _catch(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        features = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if features is None or not features.is_floating_point() or not isinstance(output, Tensor):
            return
        if output.ndim and output.shape[-1] == self._num_classes:
            # Copies: a loss may work in place on the logits, as a later module may on the features.
            self._last = name, Catch(features.detach().clone(), output.detach().clone())
            if self.layer is None:
                self._ran.pop(name, None)
                self._ran[name] = self._last[1]

    def _compare(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After the first pass: the classifier is what made the output."""
        made = [name for name, catch in self._ran.items() if returns(output, catch.logits)]
        if made:
            self._last = made[-1], self._ran[made[-1]]
        self._doubtful = (
            not made
            and bool(self._ran)
            and any(tensor.ndim > 1 and tensor.shape[-1] == self._num_classes for tensor in tensors(output))
        )
        self._ran = {}


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, without the prefix of a wrapper where that leaves the names distinct."""
    modules = dict(model.named_modules())
    plain = {WRAPPED.sub("", name): module for name, module in modules.items()}
    return plain if len(plain) == len(modules) else modules


def _is_candidate(module: nn.Module, num_classes: int) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    # The shape of a lazy layer is known after its first call, where the hook looks at the output.
    return is_lazy(weight) or (weight.ndim == 2 and weight.shape[0] == num_classes)


def _named(modules: dict[str, nn.Module], layer: str) -> nn.Module:
    for name in (layer, WRAPPED.sub("", layer)):
        if name in modules:
            return modules[name]
    near = get_close_matches(layer, modules, n=3)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    raise UsageError(f"the model has no layer {layer!r}{hint}")
