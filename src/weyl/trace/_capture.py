"""From a module to one graph of operators, without touching the module."""

from __future__ import annotations

import copy
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from weyl.errors import CaptureError, InputError

__all__ = ["capture", "check_call", "copy_module", "explain", "is_mutation", "module_tensors"]

ALIASING = frozenset(
    """
    view reshape flatten unflatten squeeze unsqueeze permute transpose t mT movedim expand expand_as
    broadcast_to select slice narrow split split_with_sizes chunk unbind tensor_split diagonal
    unfold to contiguous detach alias dropout type_as float double view_as reshape_as ravel swapaxes
    _unsafe_view lift_fresh as_strided real
    """.split()
)


OFF = frozenset(f"aten::{name}" for name in "dropout feature_dropout alpha_dropout feature_alpha_dropout".split())


def capture(
    module: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    output: Callable[[Any], Any] | None = None,
) -> ExportedProgram:
    """Export a module in eval mode as one functional graph.

    The module is not changed: a copy that shares its tensors is traced, under fake tensors, with the state of
    every random generator put back.

    Parameters
    ----------
    module : nn.Module
        Any module; its tensors may live on the meta device.
    args, kwargs
        Example inputs.
    output : callable, optional
        Picks what counts as the result, e.g. ``lambda result: result.logits``.

    Returns
    -------
    ExportedProgram
        With no operator that changes a tensor in place in a way that another tensor could see.

    Raises
    ------
    InputError
        If the inputs do not fit the module (wrong shape, another device).
    CaptureError
        If the module cannot be exported: control flow on data, or Python that cannot be traced.
    """
    check_call(module, args, kwargs)
    twin = copy_module(module, share=True)
    twin.eval()
    if output is not None:
        twin.forward = _selecting(twin.forward, output)
    with _quiet(), torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            program = torch.export.export(twin, tuple(args), dict(kwargs or {}), strict=False)
            _open_dropout(program.graph_module)
            if any(_unsafe_mutation(node) for graph in _graphs(program.graph_module) for node in graph.nodes):
                program = program.run_decompositions({})
        except Exception as error:
            raise explain(error, module) from error
    return program


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under every name that it has."""
    named: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    named.update(module.named_buffers(remove_duplicate=False))
    return named


def copy_module(module: nn.Module, share: bool = False) -> nn.Module:
    """A copy with its own Python state (mode, hooks, caches), and its own tensors unless they are shared.

    Raises
    ------
    CaptureError
        If an attribute of the module refuses to be copied.
    """
    memo: dict[int, Any] = {}
    if share:
        memo.update((id(tensor), tensor) for tensor in module_tensors(module).values())
    for part in module.modules():
        # results kept as attributes (the weight of a weight norm) refuse to be copied, and are computed anew anyway
        memo.update((id(v), v.detach()) for v in vars(part).values() if isinstance(v, torch.Tensor) and not v.is_leaf)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {_one_line(error)}); "
            "remove attributes that deepcopy refuses, such as locks or open files"
        ) from error


def check_call(module: object, args: Any, kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse what is no module, has no shapes yet, or cannot be called with these inputs.

    Raises
    ------
    InputError
        In one line, with what to do.
    """
    if isinstance(args, torch.Tensor):
        raise InputError("args must be a tuple of inputs, got a tensor: write args=(x,)")
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a TorchScript module has no Python code to capture: pass the nn.Module it was made from")
    lazy = [name for name, p in module.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise InputError(f"{lazy[0]!r} has no shape yet: run the lazy module once on a batch first")
    _check_devices(module, args, kwargs or {})


def _selecting(forward: Callable[..., Any], output: Callable[[Any], Any]) -> Callable[..., Any]:
    """The same forward, of whose result only a part is returned."""

    @functools.wraps(forward)
    def selected(*args: Any, **kwargs: Any) -> Any:
        return output(forward(*args, **kwargs))

    return selected


def _check_devices(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    devices = {tensor.device for tensor in module_tensors(module).values()}
    given = {t.device for t in torch.utils._pytree.tree_leaves((args, dict(kwargs))) if isinstance(t, torch.Tensor)}
    if len(devices) == 1 and given - devices:
        have, got = str(next(iter(devices))), str(next(iter(given - devices)))
        raise InputError(f"the model is on {have} and an input is on {got}: move one of them, e.g. x.to({have!r})")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter logs, warns and prints; its errors are raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def explain(error: Exception, module: nn.Module) -> Exception:
    """The cause in one line, with what to try."""
    kind, text = type(error).__name__, str(error)
    name = type(module).__name__
    if "in output, which is not a known type" in text:
        return CaptureError(
            f"{name} returns something that torch.export cannot return ({_one_line(error)[:80]}…): "
            "pick the tensors, e.g. output=lambda result: result.logits, or pass kwargs={'use_cache': False}"
        )
    data_dependent = ("data-dependent", "DataDependent", "GuardOnData", "_local_scalar_dense", "nonzero", "unbacked")
    if any(mark in kind or mark in text[:4000] for mark in data_dependent):
        return CaptureError(
            f"{name} decides by the values of its data{_where(text)}: "
            "pass the module without that branch, or replace it by torch.where"
        )
    shape_words = ("shape", "size", "dim", "channel", "must match", "mat1", "rank", "expected", "out of range")
    if isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)) and (
        isinstance(error, TypeError) or any(word in text.lower() for word in shape_words)
    ):
        return InputError(
            f"{name} does not accept these inputs ({_one_line(error)}): check the shapes and types of the inputs"
        )
    return CaptureError(
        f"{name} cannot be captured by torch.export ({kind}: {_one_line(error)}): "
        "try a submodule, or a forward without Python side effects"
    )


def _where(text: str) -> str:
    """The line of the model that an error of the exporter points at, where it does."""
    found = re.search(r"File \"?([^\",:]+)\"?[,:] ?(?:line )?(\d+) in (\w+)", text)
    return f" (in {found[3]}, line {found[2]} of {found[1].rpartition('/')[2]})" if found else ""


def _graphs(module: torch.fx.GraphModule) -> Iterator[torch.fx.Graph]:
    for inner in module.modules():
        if isinstance(inner, torch.fx.GraphModule):
            yield inner.graph


def _open_dropout(module: torch.fx.GraphModule) -> None:
    """Replace dropout that is off by its input, which is what it returns: the same tensor, not a copy."""
    for inner in module.modules():
        if not isinstance(inner, torch.fx.GraphModule):
            continue
        for node in list(inner.graph.nodes):
            target = node.target
            if isinstance(target, torch._ops.OpOverload) and target._schema.name in OFF and node.args[2] is False:
                node.replace_all_uses_with(node.args[0])
                inner.graph.erase_node(node)
        inner.recompile()


def is_mutation(node: torch.fx.Node) -> bool:
    """Whether a node changes its first argument in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def may_alias(node: Any) -> bool:
    """Whether the result of a node may share memory with another tensor."""
    if not isinstance(node, torch.fx.Node) or node.op != "call_function":
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        source = node.args[0] if node.args else None
        return not isinstance(source, torch.fx.Node) or may_alias(source)
    return node.target._schema.name.split("::")[-1] in ALIASING


def _unsafe_mutation(node: torch.fx.Node) -> bool:
    """Whether a change in place could be seen through another name of the same memory."""
    if not is_mutation(node):
        return False
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    written = [place for place, a in enumerate(arguments) if a.alias_info and a.alias_info.is_write]
    if written != [0]:
        return True
    target = node.args[0] if node.args else None
    while isinstance(target, torch.fx.Node) and is_mutation(target):
        target = target.args[0]
    if may_alias(target) or not isinstance(target, torch.fx.Node):
        return True
    return any(user is not node and not is_mutation(user) and may_alias(user) for user in target.users)
