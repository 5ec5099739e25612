"""Run a graph on axes in place of numbers: every operator adds its equations."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from weyl.errors import CaptureError
from weyl.trace._capture import is_mutation
from weyl.trace._cells import Axis
from weyl.trace._context import Call, Context, Result
from weyl.trace._general import mark_general
from weyl.trace._grade import Entry
from weyl.trace._values import RuleError, Value, constant_axes, has_entries
from weyl.trace.rules import IGNORED, INDEX_ARGUMENT, RULES

__all__ = ["Interpreter", "Unknown"]

FOLD_LIMIT = 1 << 24
DEPTH_LIMIT = 6
CONSTANT = "a constant of the model"

# Entries depend on the shape alone.
ONES = frozenset(["ones_like", "new_ones"])
# a function of the model cannot depend on what uninitialised memory holds, so it may as well be zero
ZEROS = frozenset(
    """
zeros_like new_zeros empty_like new_empty empty empty_permuted empty_strided
""".split()
)
FILLED = ONES | ZEROS | {"full_like", "new_full"}


@dataclass
class Unknown:
    """An operator that was not understood: what it is and the reason under which it pinned axes."""

    op: str
    module: str
    reason: str
    pin: str


@dataclass
class Interpreter:
    """Interprets graphs.

    ``unknown`` lists what was not understood, ``read`` the values that an operator read, ``log`` every operator.
    """

    context: Context = field(default_factory=Context)
    unknown: list[Unknown] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    log: list[Entry] = field(default_factory=list)

    def run(self, graph: Graph, owner: GraphModule, inputs: dict[Node, Any], depth: int = 0) -> Any:
        """Interpret a graph; returns what its output node returns, tensors replaced by values.

        Values are :class:`Value`, or tensors where the entries depend on nothing (constants).
        """
        env: dict[Node, Any] = dict(inputs)
        alive = _alive(graph)
        for node in graph.nodes:
            if node.op == "output":
                return torch.fx.map_arg(node.args[0], lambda n: env[n])
            if node in env or node not in alive:
                continue
            if node.op == "get_attr":
                env[node] = _attribute(owner, str(node.target))
            elif node.op == "call_function":
                env[node] = self._node(node, env, depth)
                _write_back(node, env)
        raise CaptureError("the captured graph has no output")

    def _node(self, node: Node, env: dict[Node, Any], depth: int) -> Any:
        args = torch.fx.map_arg(node.args, lambda n: env[n])
        kwargs = torch.fx.map_arg(node.kwargs, lambda n: env[n])
        if node.target is operator.getitem:
            source: Any = args[0]
            return source[args[1]]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._higher_order(node, args, kwargs, depth)
        if not isinstance(node.target, torch._ops.OpOverload):
            if any(isinstance(v, (Value, torch.Tensor)) for v in _leaves((args, kwargs))):
                return self._opaque(node, args, kwargs, "not an operator")
            return node.target(*args, **kwargs) if callable(node.target) else None
        name = node.target._schema.name.split("::")[-1]
        if name in IGNORED:
            return None
        folded = self._fold(node, name, args, kwargs)
        if folded is not NotImplemented:
            return folded
        return self._apply(node, name, args, kwargs, depth)

    # ------------------------------------------------------------------ constants
    def _fold(self, node: Node, name: str, args: Any, kwargs: Any) -> Any:
        """Evaluate an operator whose arguments are all known."""
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        leaves = list(_leaves((args, kwargs)))
        if torch.Tag.nondeterministic_seeded in target.tags:
            return NotImplemented
        shapes = _shapes(node)
        if any(_numel(shape) > FOLD_LIMIT for shape in shapes):
            return NotImplemented
        if name in FILLED and shapes:
            return self._filled(node, name, args, kwargs)
        if any(isinstance(leaf, Value) for leaf in leaves):
            return NotImplemented
        kwargs = {k: torch.device("cpu") if k == "device" and _is_meta(v) else v for k, v in kwargs.items()}
        args = [torch.device("cpu") if _is_meta(v) else v for v in args]
        try:
            if is_mutation(node):
                args = [v.clone() if isinstance(v, torch.Tensor) else v for v in args]
            return target(*args, **kwargs)
        except Exception:  # a constant that cannot be computed is merely unknown
            return NotImplemented

    def _filled(self, node: Node, name: str, args: Any, kwargs: Any) -> Any:
        value = 1 if name in ONES else 0 if name in ZEROS else kwargs.get("fill_value", args[-1])
        meta = node.meta["val"]
        if isinstance(value, (Value, torch.Tensor)):
            return NotImplemented
        return torch.full(tuple(meta.shape), value, dtype=meta.dtype)

    # ------------------------------------------------------------------ rules
    def _apply(self, node: Node, name: str, args: Any, kwargs: Any, depth: int) -> Any:
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        args, kwargs = _lift((args, kwargs))
        self.read.update(id(leaf) for leaf in _leaves((args, kwargs)) if isinstance(leaf, Value))
        if torch.Tag.nondeterministic_seeded in target.tags and not _harmless(name, args, kwargs, target):
            return self._opaque(node, args, kwargs, "random")
        base = name.removesuffix("_") if is_mutation(node) else name
        rule = RULES.get(f"{base}.{target._overloadname}") or RULES.get(base)
        if rule is None or target.namespace != "aten":
            self._pin_labels((args, kwargs))
            return self._decompose(node, args, kwargs, depth)
        call = Call(base, target._overloadname, _bind(target, args, kwargs), _shapes(node))
        if base not in ("cat", "concat") and any(0 in v.shape for v in call.values()):
            return self._opaque(node, args, kwargs, "an empty tensor")
        try:
            result = rule(self.context, call)
            _check(result, call.shapes)
        except (RuleError, ValueError, IndexError) as error:
            self._pin_labels((args, kwargs))
            return self._opaque(node, args, kwargs, str(error))
        result = self._drop_rounded_labels(result, _dtypes(node))
        self._settle_labels(call, result)
        marked = mark_general(call, result, _dtypes(node))
        self._record(node, call, (args, kwargs), marked)
        return marked

    def _record(self, node: Node, call: Call | None, arguments: Any, result: Any) -> None:
        """Keep an operator for grading."""
        results = result if isinstance(result, (list, tuple)) else [result]
        values = tuple(leaf for leaf in _leaves(arguments) if isinstance(leaf, Value))
        kept = tuple(value if isinstance(value, Value) else None for value in results)
        self.log.append(Entry(call, values, kept, tuple(_dtypes(node))))

    def _drop_rounded_labels(self, result: Result, dtypes: list[torch.dtype]) -> Result:
        """Labels in a type that cannot tell all positions apart are numbers."""
        if isinstance(result, Value):
            if result.labels is None or dtypes[0] in (torch.int64, torch.int32):
                return result
            self._pin_labels(result)
            return replace(result, labels=None)
        return result

    def _settle_labels(self, call: Call, result: Result) -> None:
        """Pin what labels point into unless they were used as an index or are labels still."""
        results = [v for v in (result if isinstance(result, list) else [result]) if v is not None]
        for name, argument in call.arguments.items():
            if INDEX_ARGUMENT.get(call.name) == name:
                continue
            for value in _leaves(argument):
                labels = value.labels if isinstance(value, Value) else None
                if labels is not None and (not results or any(r.labels is not labels for r in results)):
                    self._pin_labels(value)

    def _pin_labels(self, tree: Any) -> None:
        for leaf in _leaves(tree):
            if isinstance(leaf, Value) and leaf.labels is not None:
                self.context.pin(leaf.labels, "index used as a number")

    def _decompose(self, node: Node, args: Any, kwargs: Any, depth: int) -> Any:
        """Try an operator without a rule as the smaller operators that it stands for."""
        graph = _decomposition(node) if depth < DEPTH_LIMIT else None
        if graph is None:
            return self._opaque(node, args, kwargs, "no rule")
        tensors = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, (Value, torch.Tensor))]
        places = [n for n in graph.graph.nodes if n.op == "placeholder"]
        known, logged = len(self.unknown), len(self.log)
        try:
            result = self.run(graph.graph, graph, dict(zip(places, tensors, strict=True)), depth + 1)
        except RuleError:
            del self.unknown[known:], self.log[logged:]
            return self._opaque(node, args, kwargs, "no rule")
        for unknown in self.unknown[known:]:
            unknown.op, unknown.module = str(node.target), _module_path(node)
        return result

    def _higher_order(self, node: Node, args: Any, kwargs: Any, depth: int) -> Any:
        """Open regions that only switch gradients or autocasting; everything else is opaque."""
        name = str(node.target)
        graphs = [a for a in args if isinstance(a, GraphModule)]
        if len(graphs) == 1 and name.startswith("wrap_with"):
            body = graphs[0]
            operands = args[args.index(body) + 1 :]
            places = [n for n in body.graph.nodes if n.op == "placeholder"]
            return self.run(body.graph, body, dict(zip(places, operands, strict=True)), depth)
        return self._opaque(node, args, kwargs, "control flow")

    def _opaque(self, node: Node, args: Any, kwargs: Any, reason: str) -> Any:
        """Pin all that an operator touches, and remember it."""
        name = str(node.target)
        pin = f"{name} is not understood ({len(self.unknown)})"
        self.unknown.append(Unknown(name, _module_path(node), reason, pin))
        self.read.update(id(leaf) for leaf in _leaves((args, kwargs)) if isinstance(leaf, Value))
        for leaf in _leaves((args, kwargs)):
            if isinstance(leaf, Value):
                for axis in (*leaf.axes, *((leaf.labels,) if leaf.labels is not None else ())):
                    self.context.pin(axis, pin)
        if "val" not in node.meta:
            raise RuleError(f"nothing is known of the result of {name}")
        value = node.meta["val"]
        many = isinstance(value, (list, tuple))
        results = [
            self.context.value([self.context.fixed(n, pin) for n in _shape(node, item)])
            if isinstance(item, torch.Tensor)
            else item
            for item in (value if many else [value])
        ]
        self._record(node, None, (args, kwargs), results)
        return results if many else results[0]


def _alive(graph: Graph) -> set[Node]:
    """Nodes on which the output depends."""
    alive: set[Node] = set()
    stack = [node for node in graph.nodes if node.op == "output" or is_mutation(node)]
    while stack:
        node = stack.pop()
        if node not in alive:
            alive.add(node)
            stack.extend(node.all_input_nodes)
    return alive


def _write_back(node: Node, env: dict[Node, Any]) -> None:
    """After a change in place, every earlier name of the tensor stands for the new entries."""
    while is_mutation(node) and isinstance(node.args[0], Node):
        target = node.args[0]
        env[target] = env[node]
        node = target


def _attribute(owner: GraphModule, path: str) -> Any:
    found: Any = owner
    for part in path.split("."):
        found = getattr(found, part)
    if isinstance(found, torch.Tensor) and not has_entries(found):
        return Value(constant_axes(found, CONSTANT))
    return found.detach() if isinstance(found, torch.Tensor) else found


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _leaves(item)
    else:
        yield tree


def _lift(tree: Any) -> Any:
    """Known tensors as values, everywhere in a tree of arguments."""
    if isinstance(tree, torch.Tensor):
        return Value(constant_axes(tree, CONSTANT), constant=tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)(_lift(item) for item in tree) if type(tree) in (list, tuple) else [_lift(i) for i in tree]
    if isinstance(tree, dict):
        return {key: _lift(item) for key, item in tree.items()}
    return tree


def _bind(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by name, defaults filled in."""
    bound: dict[str, Any] = {}
    for place, argument in enumerate(target._schema.arguments):
        if place < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[place]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def _shapes(node: Node) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a node returns."""
    if "val" not in node.meta:
        raise RuleError(f"nothing is known of the result of {node.target}")
    value = node.meta["val"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [_shape(node, item) for item in values if isinstance(item, torch.Tensor)]


def _shape(node: Node, tensor: torch.Tensor) -> tuple[int, ...]:
    if not all(isinstance(n, int) for n in tensor.shape):
        raise CaptureError(
            f"{node.target} returns a shape that depends on data ({tuple(tensor.shape)}): "
            "replace boolean indexing by torch.where, or pass a part of the model without it"
        )
    return tuple(tensor.shape)


def _dtypes(node: Node) -> list[torch.dtype]:
    """Types of the tensors that a node returns."""
    value = node.meta["val"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [item.dtype for item in values if isinstance(item, torch.Tensor)]


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _is_meta(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "meta"


def _harmless(name: str, args: Any, kwargs: Any, target: torch._ops.OpOverload) -> bool:
    """Dropout in eval mode and the like: tagged random, but not with these arguments."""
    bound = _bind(target, args, kwargs)
    if "dropout" in name and name != "native_dropout":
        return bound.get("train") is False
    return name.startswith(("scaled_dot_product", "_scaled_dot", "rrelu", "lstm", "gru", "rnn", "native_dropout")) and (
        not bound.get("dropout_p") and not bound.get("training") and not bound.get("train")
    )


def _check(result: Result, shapes: list[tuple[int, ...]]) -> None:
    """A rule that returns the wrong shape has misread its operator."""
    results = result if isinstance(result, list) else [result]
    for value, shape in zip(results, shapes, strict=False):
        if value is not None and value.shape != shape:
            raise RuleError(f"internal: a rule gave shape {value.shape}, the operator gives {shape}")


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).removeprefix("L['self'].") if stack else ""


def _decomposition(node: Node) -> GraphModule | None:
    """The graph of smaller operators that an operator stands for, or None."""
    from torch._decomp import decomposition_table
    from torch.fx.experimental.proxy_tensor import make_fx

    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    function: Callable[..., Any] | None = decomposition_table.get(target)
    if function is None:
        composite = torch._C.DispatchKey.CompositeImplicitAutograd
        if not target.has_kernel_for_dispatch_key(composite):
            return None
        function = target.decompose
    nodes = [n for n in _leaves((node.args, dict(node.kwargs))) if isinstance(n, Node)]
    fakes = [n.meta.get("val") for n in nodes]
    if any(not isinstance(fake, torch.Tensor) for fake in fakes):
        return None

    def call(*tensors: torch.Tensor) -> Any:
        supply = iter(tensors)
        fill = lambda n: next(supply)  # noqa: E731
        return function(*torch.fx.map_arg(node.args, fill), **torch.fx.map_arg(node.kwargs, fill))

    try:
        graph: GraphModule = make_fx(torch.func.functionalize(call))(*fakes)
    except Exception:  # a decomposition that fails here leaves the operator opaque
        return None
    unfit = [n for n in graph.graph.nodes if n.op == "call_function" and (n.target is target or is_mutation(n))]
    return None if unfit else graph


def hold(context: Context, tree: Any, reason: str) -> None:
    """Pin every value in a tree: the outputs of the model."""
    for leaf in _leaves(tree):
        if isinstance(leaf, Value):
            axes: list[Axis] = [*leaf.axes]
            if leaf.labels is not None:
                axes.append(leaf.labels)
            for axis in axes:
                context.pin(axis, reason)
