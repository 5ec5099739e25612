"""What reads the output of a norm, from the graph of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from weyl._memory import tensor_identity

__all__ = ["Linear", "Readers"]

Identity = tuple[object, ...]

NORMS = frozenset({"layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm"})
# They hand rows of units on as they are, as long as the last dimension keeps its size.
VIEWS = frozenset(
    """
    view reshape _unsafe_view flatten unflatten squeeze unsqueeze expand clone contiguous alias detach to _to_copy
    """.split()
)
CHOICES = frozenset({"select", "slice", "index_select"})
CASTS = frozenset({"to", "_to_copy", "detach", "alias", "clone"})


@dataclass(frozen=True)
class Linear:
    """One application of a linear map.

    Parameters
    ----------
    node : Node
        Where in the graph.
    module : str
        Path of the module that applies it.
    weight : tuple
        Identity of the matrix.
    out : int
        The dimension of the matrix that stands for its results.
    bias : tuple, optional
        Identity of what is added.
    """

    node: Node
    module: str
    weight: Identity
    out: int
    bias: Identity | None


class Readers:
    """Who reads what a norm returns.

    Parameters
    ----------
    program : ExportedProgram
        The captured model.
    tensors : mapping of str to tensor
        Parameters and buffers of the model under all their names.
    """

    def __init__(self, program: ExportedProgram, tensors: Mapping[str, Tensor]) -> None:
        places = {node.name: node for node in program.graph_module.graph.nodes if node.op == "placeholder"}
        self._of: dict[Node, Identity] = {}
        for spec in program.graph_signature.input_specs:
            if spec.target in tensors:
                self._of[places[spec.arg.name]] = tensor_identity(tensors[spec.target])

    def others(self, gain: Tensor, bias: Tensor | None) -> tuple[str, ...]:
        """What reads the output of a norm and is no linear map, as text."""
        found = [end for end, source in self._ends(gain, bias) if self._linear(end, source) is None]
        return tuple(dict.fromkeys(_title(node) for node in found))

    def linear(self, gain: Tensor, bias: Tensor) -> tuple[Linear, ...] | None:
        """The linear maps that read the output of a norm, if nothing else reads it and they read nothing else.

        None also if what one of them adds is added elsewhere, or is not a parameter.
        """
        ends = [self._linear(end, source) for end, source in self._ends(gain, bias)]
        if not ends or not all(self._uses(bias)):
            return None
        found = tuple(dict.fromkeys(end for end in ends if end is not None))
        nodes = {reader.node for reader in found}
        pairs = {(reader.weight, reader.out, reader.bias) for reader in found}
        shifted = [reader.bias for reader in found if reader.bias is not None]
        moved = [*(reader.weight for reader in found), *shifted]
        if (
            None in ends
            or any(reader.bias is None and _bias_of(reader.node) is not None for reader in found)
            or any(not set(self._applied(identity)) <= nodes for identity in moved)
            or len(pairs) > len({weight for weight, _, _ in pairs})
            or sum(bias is not None for _, _, bias in pairs) > len(set(shifted))
        ):
            return None
        return found

    def _nodes(self, identity: Identity) -> Iterator[Node]:
        """Placeholders of a tensor, and what only casts or transposes it."""
        stack = [node for node, own in self._of.items() if own == identity]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(user for user in node.users if _op(user) in CASTS or _transposes(user))

    def _applied(self, identity: Identity) -> Iterator[Node]:
        """Operators that read a tensor."""
        own = list(self._nodes(identity))
        return (user for node in own for user in node.users if user not in own)

    def _uses(self, bias: Tensor) -> Iterator[bool]:
        """For everything that reads the bias of a norm, whether it adds it to what the norm returns."""
        return (_op(user) in NORMS or _adds(user) for user in self._applied(tensor_identity(bias)))

    def _results(self, gain: Tensor, bias: Tensor | None) -> Iterator[Node]:
        """What the norm returns, wherever it is applied."""
        shifts = set(self._nodes(tensor_identity(bias))) if bias is not None else set()
        for node in self._applied(tensor_identity(gain)):
            if _op(node).startswith(("native_", "_fused_")):
                yield from (user for user in node.users if user.args[1:] == (0,))
            elif shifts and _op(node) not in NORMS:
                adding = [user for user in node.users if _adds(user) and not shifts.isdisjoint(user.all_input_nodes)]
                yield from adding or [node]
            else:
                yield node

    def _ends(self, gain: Tensor, bias: Tensor | None) -> Iterator[tuple[Node, Node]]:
        """Operators that do more with the output of a norm than to hand it on, and what they read it as."""
        stack = list(self._results(gain, bias))
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            for user in node.users:
                if _hands_on(user, node, gain.shape[-1]):
                    stack.append(user)
                elif _op(user) != "_assert_tensor_metadata":
                    yield user, node

    def _linear(self, node: Node, source: Node) -> Linear | None:
        """The linear map that an operator applies to ``source``, if it is one with a parameter for a matrix."""
        place = _LINEAR.get(_op(node))
        if place is None or place(node.args)[0] is not source or not isinstance(place(node.args)[1], Node):
            return None
        _, matrix, out = place(node.args)
        while _op(matrix) in CASTS or _transposes(matrix):
            out = 1 - out if _transposes(matrix) else out
            matrix = matrix.args[0]
        if matrix not in self._of or matrix.meta["val"].ndim != 2:
            return None
        bias = _bias_of(node)
        own = self._of.get(bias) if bias is not None else None
        return Linear(node, _module(node), self._of[matrix], out, own)


# For an operator: what it reads, the matrix, and the dimension of the matrix that stands for its results.
_LINEAR: Mapping[str, Callable[[Any], tuple[Any, Any, int]]] = {
    "linear": lambda args: (args[0], args[1], 0),
    "addmm": lambda args: (args[1], args[2], 1),
    "mm": lambda args: (args[0], args[1], 1),
    "matmul": lambda args: (args[0], args[1], 1),
}


def _op(node: Node) -> str:
    """Name of an operator without its namespace."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else ""


def _module(node: Node) -> str:
    """Path of the innermost module that applies an operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).partition("@")[0] if stack else ""


def _title(node: Node) -> str:
    if node.op == "output":
        return "the output of the model"
    return f"{node.target} in {_module(node) or 'the model'}"


def _bias_of(node: Node) -> Any:
    """What a linear operator adds."""
    if _op(node) == "addmm":
        return node.args[0]
    return node.args[2] if _op(node) == "linear" and len(node.args) > 2 else None


def _adds(node: Node) -> bool:
    return _op(node) == "add" and not node.kwargs


def _transposes(node: Node) -> bool:
    """Whether a node is the transposed matrix of another one."""
    if _op(node) not in ("t", "numpy_T", "transpose", "permute") or node.meta["val"].ndim != 2:
        return False
    return _op(node) in ("t", "numpy_T") or _axis_moved(node)


def _axis_moved(node: Node) -> bool:
    """Whether a transposition moves the last axis."""
    rank = node.meta["val"].ndim
    dims: Any = node.args[1:]
    if _op(node) == "permute":
        return bool(dims[0][-1] % rank != rank - 1)
    first, second = (dim % rank for dim in dims[:2])
    return first != second and rank - 1 in (first, second)


def _hands_on(node: Node, source: Node, size: int) -> bool:
    """Whether an operator returns rows of units of ``source`` as they are."""
    op = _op(node)
    shaped: tuple[int, ...] = getattr(node.meta.get("val"), "shape", ())
    if not shaped or shaped[-1] != size or node.args[0] is not source:
        return False
    if op in VIEWS:
        return True
    if op in ("transpose", "permute"):
        return not _axis_moved(node)
    rank = source.meta["val"].ndim
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    return op in CHOICES and dim % rank != rank - 1
