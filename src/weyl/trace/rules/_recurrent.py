"""Recurrent layers as whole operators: one hidden space for each layer and direction."""

from __future__ import annotations

from weyl.trace._cells import Axis, Cell, size_of
from weyl.trace._context import Call, Context, Result, Rule
from weyl.trace._values import RuleError, Value

__all__ = ["RULES"]

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
WHY = "place in a sequence"


def recurrent(context: Context, call: Call) -> Result:
    """LSTM, GRU and plain RNN: several layers, both directions, projections."""
    if "batch_sizes" in call.arguments:
        raise RuleError("a packed sequence")
    value: Value = call["input"]
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    weights: list[Value] = list(call["params"])
    directions = 2 if call["bidirectional"] else 1
    time = 0 if value.ndim == 2 or not call["batch_first"] else 1
    context.pin(value.axes[time], WHY)
    per_cell = len(weights) // (call["num_layers"] * directions)
    features = value.axes[-1]
    around = [axis for d, axis in enumerate(value.axes[:-1]) if d != time]
    for state in states:
        around = [context.join(a, b) for a, b in zip(around, state.axes[1:-1], strict=True)]
    outputs: list[Axis] = []
    cells: list[Axis] = []
    for layer in range(call["num_layers"]):
        found = []
        for direction in range(directions):
            number = layer * directions + direction
            own = weights[number * per_cell : (number + 1) * per_cell]
            start = [context.select(state, 0, number) for state in states]
            out, cell = _cell(context, call.name, features, own, start, call["has_biases"])
            for weight in own:
                context.touch(*around, *weight.axes)
            context.touch(*around, out)
            context.touch(*around, cell)
            found.append(out)
            cells.append(cell)
        outputs.extend(found)
        features = context.concatenate(found)
    sequence = [*around, features]
    sequence.insert(time, context.fixed(size_of(value.axes[time]), WHY))
    last = [_stacked(context, outputs, around)]
    if call.name == "lstm":
        last.append(_stacked(context, cells, around))
    return [context.value(sequence), *last]


def _cell(
    context: Context, name: str, features: Axis, weights: list[Value], start: list[Value], biases: bool
) -> tuple[Axis, Axis]:
    """Equations of one layer and direction; returns the axes of its output and of its cell state."""
    rows = size_of(weights[0].axes[0]) // GATES[name]
    hidden: Axis = (Cell(rows),) if rows > 1 else ()
    gates = _gates(hidden, GATES[name])
    count = 4 if biases else 2
    output = weights[count].axes[0] if len(weights) > count else hidden
    if len(weights) > count:
        context.join(weights[count].axes[1], hidden)
    context.join(weights[0].axes[1], features)
    context.join(weights[1].axes[1], output)
    for weight in weights[:count]:
        context.join(weight.axes[0], gates)
    output = context.join(start[0].axes[-1], output)
    return output, context.join(start[1].axes[-1], hidden) if len(start) > 1 else hidden


def _gates(hidden: Axis, count: int) -> Axis:
    if count == 1:
        return hidden
    return (Cell.sum([hidden] * count),)


def _stacked(context: Context, features: list[Axis], around: list[Axis]) -> Value:
    """Last states of all layers and directions; each keeps its own space."""
    if len(features) == 1:
        return context.value([(), *around, features[0]])
    number = Cell.sum([()] * len(features))
    family = Cell(size_of(features[0]))
    context.unifier.bind_family(family, number, features)
    return context.value([(number,), *around, (family,)])


def single_step(context: Context, call: Call) -> Result:
    """One step of an LSTM, GRU or RNN cell."""
    name = call.name.removesuffix("_cell")
    value: Value = call["input"]
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    weights = [call["w_ih"], call["w_hh"], call.get("b_ih"), call.get("b_hh")]
    own = [w for w in weights if isinstance(w, Value)]
    around = list(context.broadcast([Value(v.axes[:-1]) for v in (value, *states)]))
    for weight in own:
        context.touch(*around, *weight.axes)
    out, cell = _cell(context, name, value.axes[-1], own, list(states), len(own) == 4)
    results: list[Value | None] = [context.value([*around, out])]
    if name == "lstm":
        results.append(context.value([*around, cell]))
    return results if name == "lstm" else results[0]


RULES: dict[str, Rule] = {
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], recurrent),
    **dict.fromkeys(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], single_step),
}
