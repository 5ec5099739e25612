"""Recurrent layers: the candidate's rows flip with the hidden state, the rows of the other gates do not."""

from __future__ import annotations

from weyl.trace._context import Call
from weyl.trace._grade import LETTERS, Factor, Grader
from weyl.trace._graded import Graded
from weyl.trace._values import Value
from weyl.trace.grades._call import GradeRule, Results
from weyl.trace.grades._pointwise import bend
from weyl.trace.rules._recurrent import GATES

__all__ = ["RULES"]

CANDIDATE = {"lstm": 2, "gru": 2, "rnn_tanh": 0, "rnn_relu": 0}


def _layer(
    grader: Grader, name: str, features: list[tuple[Graded, int]], weights: list[Value], biases: bool
) -> tuple[Graded, Graded]:
    """One layer and direction; returns its hidden and cell state as vectors.

    ``features`` are what it reads, each with its first column of the input weights.
    """
    count = 4 if biases else 2
    hidden = grader.fresh([weights[1].axes[1]])
    projected = len(weights) > count
    cell = grader.fresh([weights[count].axes[1]]) if projected else grader.fresh([weights[1].axes[1]])
    read, fed, *shifts = (grader.get(w) for w in weights[:count])
    size = read.shape[0] // GATES[name]
    for gate in range(GATES[name]):
        rows = (gate * size, (gate + 1) * size)
        before = grader.fresh([weights[count].axes[1] if projected else weights[1].axes[1]])
        for tensor, start in features:
            columns = read.sliced(0, *rows).sliced(1, start, start + tensor.shape[-1])
            letters = LETTERS[: tensor.ndim - 1] + "F"
            grader.product([Factor(tensor, letters), Factor(columns, "RF")], before, "R")
        grader.product([Factor(hidden, "F"), Factor(fed.sliced(0, *rows), "RF")], before, "R")
        grader.same([shift.sliced(0, *rows) for shift in shifts], before)
        if gate != CANDIDATE[name]:
            grader.kill(before)
        elif name == "rnn_relu":
            bend(grader, before, cell, 1, None)
        else:
            bend(grader, before, cell, None, 1)
    grader.roughen(cell)
    if projected:
        grader.product([Factor(cell, "F"), Factor(grader.get(weights[count]), "RF")], hidden, "R")
    else:
        grader.same([cell], hidden)
    return hidden, cell


def recurrent(grader: Grader, call: Call, results: Results) -> bool:
    """Several layers, both directions, projections."""
    directions = 2 if call["bidirectional"] else 1
    weights: list[Value] = list(call["params"])
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    per_cell = len(weights) // (call["num_layers"] * directions)
    features = [(grader.get(call["input"]), 0)]
    outs = [grader.make(value) for value in results if value is not None]
    number = 0
    for _ in range(call["num_layers"]):
        found: list[tuple[Graded, int]] = []
        for _ in range(directions):
            own = weights[number * per_cell : (number + 1) * per_cell]
            both = _layer(grader, call.name, features, own, call["has_biases"])
            for vector, start, ended in zip(both, states, outs[1:], strict=False):
                begin = grader.get(start).sliced(0, number, number + 1).dropped(0)
                _carry(grader, begin, vector)
                _fill(grader, vector, ended.sliced(0, number, number + 1).dropped(0))
            found.append((both[0], sum(t.shape[0] for t, _ in found)))
            number += 1
        features = found
    last = outs[0].ndim - 1
    for state, begin_at in features:
        _fill(grader, state, outs[0].sliced(last, begin_at, begin_at + state.shape[0]))
    return True


def _carry(grader: Grader, start: Graded, state: Graded) -> None:
    """A state begins as a given tensor; zeros may be anything."""
    if not start.null:
        grader.product([Factor(start, LETTERS[: start.ndim - 1] + "F")], state, "F")


def _fill(grader: Grader, state: Graded, out: Graded) -> None:
    """A state as a result, the same at every place."""
    grader.product([Factor(state, "F")], out, LETTERS[: out.ndim - 1] + "F")


def single_step(grader: Grader, call: Call, results: Results) -> bool:
    """One step of a cell."""
    name = call.name.removesuffix("_cell")
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    weights = [call["w_ih"], call["w_hh"], call.get("b_ih"), call.get("b_hh")]
    own = [w for w in weights if isinstance(w, Value)]
    both = _layer(grader, name, [(grader.get(call["input"]), 0)], own, len(own) == 4)
    for state, start, value in zip(both, states, results, strict=False):
        _carry(grader, grader.get(start), state)
        if value is not None:
            _fill(grader, state, grader.make(value))
    return True


RULES: dict[str, GradeRule] = {
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], recurrent),
    **dict.fromkeys(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], single_step),
}
