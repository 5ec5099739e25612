"""What the units of a network say while it runs, found through the parameters that its functions are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from weyl._memory import tensor_identity
from weyl.structure import Axis, Cases, spaces_of

__all__ = ["Key", "Tap", "Value"]

Key = tuple[str, int, Axis]

NAMESPACES = (torch, torch.Tensor, F)


def _functions(names: str) -> frozenset[Any]:
    """All functions and methods of these names that a mode can see."""
    found = (getattr(space, name, None) for name in names.split() for space in NAMESPACES)
    return frozenset(function for function in found if function is not None)


class Writer(NamedTuple):
    """How a function writes units: dimension of its matrix and of its output, what it reads, if it takes a bias."""

    matrix: int
    output: int
    source: int = 0
    bias: bool = True


WRITERS: Mapping[Any, Writer] = {
    function: writer
    for names, writer in (
        ("linear", Writer(0, -1)),
        ("conv1d", Writer(0, -2)),
        ("conv2d", Writer(0, -3)),
        ("conv3d", Writer(0, -4)),
        ("conv_transpose1d", Writer(1, -2)),
        ("conv_transpose2d", Writer(1, -3)),
        ("conv_transpose3d", Writer(1, -4)),
        ("embedding embedding_bag", Writer(1, -1, bias=False)),
        ("addmm", Writer(1, -1, 1)),
        ("mm matmul __matmul__", Writer(1, -1, bias=False)),
        ("batch_norm instance_norm group_norm", Writer(0, 1)),
    )
    for function in _functions(names)
}
# Their parameters are laid along the last dimensions of the result.
BROADCAST = _functions(
    "layer_norm rms_norm add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ mul mul_ multiply"
    " __mul__ __rmul__ __imul__ div div_ true_divide __truediv__ __rtruediv__ __itruediv__"
)
NORMS = _functions("batch_norm instance_norm group_norm layer_norm rms_norm normalize")
NONLINEAR = _functions(
    "relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu elu elu_ selu selu_ celu celu_ gelu silu mish softplus"
    " softsign hardswish hardsigmoid hardtanh hardtanh_ tanh tanh_ tanhshrink sigmoid sigmoid_ logsigmoid hardshrink"
    " softshrink threshold threshold_ clamp clamp_ clip clip_ clamp_min clamp_min_ clamp_max abs abs_ __abs__ square"
    " pow __pow__ exp sin cos atan erf maximum minimum where"
)
# Unit by unit, and of the same shape: what comes out stands for what goes in.
POINTWISE = (
    BROADCAST
    | NORMS
    | NONLINEAR
    | _functions("neg __neg__ rsub lerp addcmul addcdiv masked_fill masked_fill_ sqrt rsqrt sign nan_to_num")
)
COPIES = _functions(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout clone contiguous to type type_as float"
    " double half bfloat16 detach"
)
POOLS = _functions("max_pool1d max_pool2d max_pool3d")
# Masks and statistics of a normalisation that is written out: asking is not reading.
QUESTIONS = _functions("gt lt ge le eq ne __gt__ __lt__ __ge__ __le__ __eq__ __ne__ isnan isinf isfinite any all")
REDUCTIONS = _functions("mean sum var std norm amax amin")
RECURRENT = _functions("lstm gru rnn_tanh rnn_relu")
CELLS = _functions("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")

# Its body, without the question that would hand the call back to the mode: the projections inside are to be seen.
_ATTENTION = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
    closure=F.multi_head_attention_forward.__closure__,
)


class Value(NamedTuple):
    """Activations of the units of one axis.

    Parameters
    ----------
    name : str
        The parameter that wrote them.
    stage : int
        How many pointwise functions came after it.
    axis : Axis
        What the units are.
    tensor : Tensor
        The activations.
    dim : int
        The dimension of the units, not negative.
    """

    name: str
    stage: int
    axis: Axis
    tensor: Tensor
    dim: int

    @property
    def key(self) -> Key:
        """What tells it from other values: a layer that runs twice writes one value, of more samples."""
        return self.name, self.stage, self.axis


@dataclass(eq=False)
class _Track:
    """What is known of a tensor and its copies and views."""

    name: str
    axis: Axis
    stage: int = 0
    active: bool = False
    taken: bool = False


class _Known(NamedTuple):
    """A tensor that is tracked, and the dimension of its units."""

    track: _Track
    dim: int


class Tap(TorchFunctionMode):
    """While it is entered, hands on the activations of the units of every axis on which a space acts.

    A tensor is tracked from the function that was given a parameter of its units (a linear layer, a convolution, an
    embedding, a normalisation, a sum or product with a parameter, a recurrent layer) through pointwise functions
    (activations, normalisations, sums, products), copies and views. It is handed on when something else reads it:
    so after the activation, and after the residual sum.

    Parameters
    ----------
    axes : mapping of str to tuple of Axis
        Of every tensor of the structure.
    state : mapping of str to Tensor
        The very tensors that the functions are given.
    wanted : collection of str
        Spaces whose units are looked for.
    take : callable
        Gets every `Value`, in the order of reading.
    """

    def __init__(
        self,
        axes: Mapping[str, tuple[Axis, ...]],
        state: Mapping[str, Tensor],
        wanted: frozenset[str],
        take: Callable[[Value], None],
    ) -> None:
        super().__init__()
        self._wanted, self._take = wanted, take
        self._known: MutableMapping[Tensor, _Known] = WeakTensorKeyDictionary()
        self._parameters: dict[tuple[object, ...], tuple[str, tuple[Axis, ...]]] = {}
        for name, own in axes.items():
            if name in state:
                tensor = state[name]
                self._parameters.setdefault(tensor_identity(tensor), (name, own))
                if tensor.ndim == 2:
                    self._parameters.setdefault(tensor_identity(tensor.t()), (name, own[::-1]))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and note what its result is."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in RECURRENT:
            self._consume(args, kwargs)
            self._recur(args, result)
        elif func in CELLS:
            self._consume(args, kwargs)
            self._note(result[0] if isinstance(result, tuple) else result, self._column(args[3], 1), -1)
        elif isinstance(result, Tensor):
            self._follow(func, args, kwargs, result)
        elif any(True for _ in _tensors((result,))):
            self._consume(args, kwargs)
        return result

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        """Note what one tensor is that a function returned, and whether it read or only passed on what it was given."""
        known = list(self._tracked(args, kwargs))
        written = self._written(func, args, kwargs, result)
        if func in POINTWISE:
            passed = next((k for t, k in known if _same_units(t, k.dim, result)), None)
            if written is None and passed is not None:
                written = _Known(_Track(passed.track.name, passed.track.axis), passed.dim)
            if written is not None:
                tracks = [k.track for _, k in known]
                written.track.stage = max((t.stage + 1 for t in tracks), default=0)
                written.track.active = func in NONLINEAR or any(t.active for t in tracks)
                self._known[result] = written
                return
        elif func in COPIES:
            written = next((k for t, k in known if t.shape == result.shape), None)
        elif func in QUESTIONS or (func in REDUCTIONS and all(_reduced(t, k.dim, args, kwargs) for t, k in known)):
            return
        elif func in POOLS and known and not known[0][1].track.active:
            written = known[0][1]
        elif known and written is None:
            written = next((v for t, k in known if (v := _seen_through(t, k, result))), None)
        if written is None or func in WRITERS:
            self._consume(args, kwargs)
        if written is not None:
            self._known[result] = written
        else:
            self._known.pop(result, None)

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> _Known | None:
        """What a function writes that was given a parameter."""
        writer = WRITERS.get(func)
        if writer is None and func not in BROADCAST:
            return None
        source = writer.source if writer else None
        others = [arg for i, arg in enumerate(args) if i != source]
        others += [value for key, value in kwargs.items() if key not in ("mat1", *(("input",) if source == 0 else ()))]
        for tensor in _tensors(others):
            _, axes = self._parameters.get(tensor_identity(tensor), ("", ()))
            for i, dim in _written_dims(writer, len(axes), result.ndim):
                column = self._column(tensor, i)
                if column and 0 <= dim < result.ndim and result.shape[dim] == column.axis.size:
                    return _Known(column, dim)
        return None

    def _column(self, tensor: Any, dim: int) -> _Track | None:
        """The units along a dimension of a parameter, if they are wanted."""
        found = self._parameters.get(tensor_identity(tensor)) if isinstance(tensor, Tensor) else None
        if found is None:
            return None
        axis = found[1][dim]
        if isinstance(axis, Cases) or self._wanted.isdisjoint(spaces_of(axis)):
            return None
        return _Track(found[0], axis)

    def _recur(self, args: tuple[Any, ...], result: tuple[Tensor, ...]) -> None:
        """The last layer's outputs at all steps; of the layers below, only the last step is returned."""
        weights = [arg for arg in args if isinstance(arg, (list, tuple))][-1]
        matrices = [t for t in weights if t.ndim == 2]
        last = result[1]
        cells = last.shape[0]
        own = matrices[1 :: len(matrices) // cells]
        width = last.shape[-1]
        copies = result[0].shape[-1] // width
        for i, matrix in enumerate(own):
            track = self._column(matrix, 1)
            if track is None or track.axis.size != width:
                continue
            if i < cells - copies:
                self._hand(_Known(track, last.ndim - 2), last[i])
            else:
                start = (i - cells + copies) * width
                self._hand(_Known(track, result[0].ndim - 1), result[0][..., start : start + width])

    def _note(self, result: Tensor, track: _Track | None, dim: int) -> None:
        """Track a tensor."""
        if track is not None:
            self._known[result] = _Known(track, dim % result.ndim)

    def _consume(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hand on what a function read."""
        for tensor, known in self._tracked(args, kwargs):
            if not known.track.taken:
                self._hand(known, tensor)

    def _hand(self, known: _Known, tensor: Tensor) -> None:
        known.track.taken = True
        self._take(Value(known.track.name, known.track.stage, known.track.axis, tensor, known.dim))

    def _tracked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Tensor, _Known]]:
        for tensor in _tensors((*args, *kwargs.values())):
            known = self._known.get(tensor)
            if known is not None:
                yield tensor, known


def _written_dims(writer: Writer | None, ndim: int, result: int) -> Iterator[tuple[int, int]]:
    """Dimensions of a parameter, and where they lie in the result: of that many dimensions."""
    if writer is None:
        yield from ((i, result - ndim + i) for i in range(ndim))
    elif ndim == 1 and writer.bias:
        yield 0, writer.output % result
    elif ndim == 2 or (ndim > 2 and writer.output < -1):
        yield writer.matrix, writer.output % result


def _tensors(things: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among arguments, also in lists."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, (list, tuple)):
            yield from _tensors(thing)


def _same_units(tensor: Tensor, dim: int, result: Tensor) -> bool:
    return tensor.ndim == result.ndim and tensor.shape[dim] == result.shape[dim]


def _reduced(tensor: Tensor, dim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a reduction of a tensor is one over its units."""
    dims = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    return any(type(d) is int and d % tensor.ndim == dim for d in dims)


def _seen_through(tensor: Tensor, known: _Known, result: Tensor) -> _Known | None:
    """The same units in a view: the only dimension of their size and stride."""
    if result is tensor or tensor.shape[known.dim] < 2:
        return known if result is tensor else None
    if str(tensor.layout) != "torch.strided" or str(result.layout) != "torch.strided":
        return None
    if tensor.untyped_storage()._cdata != result.untyped_storage()._cdata:
        return None
    own = tensor.shape[known.dim], tensor.stride(known.dim)
    dims = [dim for dim in range(result.ndim) if (result.shape[dim], result.stride(dim)) == own]
    return known._replace(dim=dims[0]) if len(dims) == 1 else None
