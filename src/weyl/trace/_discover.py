"""``discover``: the structure of a model, found from its graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from weyl._memory import tensor_identity
from weyl.errors import InputError, OpaqueError
from weyl.structure import Opaque, Structure
from weyl.trace._capture import capture, module_tensors
from weyl.trace._cells import Axis, Cell, Uniform, flatten
from weyl.trace._express import Expressions, express, make_spaces, merge_inseparable, name_spaces, simplify
from weyl.trace._gauges import Naming
from weyl.trace._grading import grade_parameters
from weyl.trace._interpret import Interpreter, hold
from weyl.trace._nest import Occurrence, find_nesting, settle
from weyl.trace._values import Value, has_entries

__all__ = ["analyse", "discover"]

Identity = tuple[object, ...]
# Of every tensor of the state: the values that stand for it in the graph, and its names.
Owners = tuple[tuple[list[Value], list[str]], ...]


def discover(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
    fixed: Sequence[str] = (),
    output: Callable[[Any], Any] | None = None,
) -> Structure:
    """Find the symmetry group of a model: permutations, signs, scales, matrices, translations.

    The model is captured as a graph of operators in eval mode; every operator adds equations between the axes of
    parameters and activations, and between the exponents with which they scale and flip; what the equations leave
    free is the symmetry group. An operator that is not understood pins what it touches and is listed in
    ``structure.opaque``: the group may be too small, it is never too large.

    Parameters
    ----------
    model : nn.Module
        Any module that ``torch.export`` can capture. It is not changed: mode, gradients, hooks and random state
        stay. Its tensors may live on the meta device; values of weights are never used.
    args : tuple
        Example positional inputs; their shapes are taken as given, their units are pinned.
    kwargs : mapping, optional
        Example keyword inputs.
    strict : bool
        Raise where an operator has no rule.
    fixed : sequence of str
        Glob patterns of parameters and persistent buffers to hold still, e.g. ``["*.mask"]``.
    output : callable, optional
        Picks what counts as the result of the model, e.g. ``lambda result: result.logits``; everything that a
        model returns is pinned, also hidden states that nobody reads.

    Returns
    -------
    Structure
        Spaces, the axis expression of every parameter and persistent buffer, and the group.

    Raises
    ------
    InputError
        If the inputs do not fit the model, or a pattern of ``fixed`` matches nothing.
    CaptureError
        If the model cannot be captured (control flow on data).
    OpaqueError
        With ``strict``, if an operator has no rule.

    References
    ----------
    The swaps of neurons and filters: Michelucci, arXiv 2211.06603. Axis unification is described in
    ``docs/architecture.md``.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> structure = weyl.discover(net, (torch.zeros(1, 5),))
    >>> structure.group.symbol, structure.group.order.formula
    ('B_4 × B_3', '4! · 3! · 2^7')
    """
    return analyse(capture(model, args, kwargs, output), module_tensors(model), strict=strict, fixed=fixed)


def analyse(
    program: ExportedProgram,
    tensors: Mapping[str, torch.Tensor],
    *,
    strict: bool = False,
    fixed: Sequence[str] = (),
) -> Structure:
    """The structure of a captured model: :func:`discover` after the export.

    Parameters
    ----------
    program : ExportedProgram
        As :func:`weyl.trace.capture` returns it.
    tensors : mapping of str to tensor
        Parameters and buffers under all their names; shapes and identity are used, never values.
    strict, fixed
        As in :func:`discover`.
    """
    inputs, parameters, owners = _inputs(program, tensors)
    interpreter = Interpreter()
    context = interpreter.context
    held = _matching(parameters, fixed)
    for name in held:
        for axis in parameters[name]:
            context.pin(axis, "held fixed by the caller")
    result = interpreter.run(program.graph_module.graph, program.graph_module, inputs)
    hold(context, result, "an output of the model")
    mutated = _mutated(program, inputs)
    hold(context, mutated, "a buffer that the forward pass changes")
    unused = _pin_unused(interpreter, program, tensors, inputs, parameters, result)
    overlapping = _pin_overlapping(interpreter, program, tensors, parameters)
    if strict and interpreter.unknown:
        first = interpreter.unknown[0]
        raise OpaqueError(
            f"{first.op} in {first.module or 'the model'} has no rule ({first.reason}): "
            "discover without strict=True to pin what it touches"
        )
    own = [Occurrence(axes) for axes in parameters.values()]
    settle(context.unifier, [*context.occurrences.values(), *own], parameters.values())
    still = (*held, *unused, *overlapping, *(n for n in parameters if not tensors[n].is_floating_point()))
    return _structure(interpreter, parameters, unused, overlapping, owners, still, (result, mutated))


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Names that match some pattern; every pattern must match one, or it was mistyped."""
    names = list(names)
    if isinstance(patterns, str):
        raise InputError(f"fixed must be a list of patterns, got the string {patterns!r}: write fixed=[{patterns!r}]")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"fixed pattern {pattern!r} matches no parameter or persistent buffer{hint}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _inputs(
    program: ExportedProgram, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[Node, Any], dict[str, tuple[Axis, ...]], Owners]:
    """Values of the graph's inputs, axes of every named tensor of the state, and its values and names by identity."""
    places = {n.name: n for n in program.graph_module.graph.nodes if n.op == "placeholder"}
    values: dict[Node, Any] = {}
    owned: dict[Identity, tuple[Axis, ...]] = {}
    owners: dict[Identity, tuple[list[Value], list[str]]] = {}
    identities = _identities(tensors)
    persistent = {
        spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent)
    }
    for spec in program.graph_signature.input_specs:
        node = places[spec.arg.name]
        if spec.target in persistent:
            identity = identities[spec.target]
            shape = tuple(tensors[spec.target].shape)
            axes = owned.setdefault(identity, _new_axes(shape))
            learnt = isinstance(tensors[spec.target], nn.Parameter) and tensors[spec.target].is_floating_point()
            value = Value(axes, general=learnt, distinct=frozenset(range(len(axes))) if learnt else frozenset())
            values[node] = value
            owners.setdefault(identity, ([], []))[0].append(value)
        else:
            values[node] = _constant_or_input(spec, node, program, tensors)
    parameters: dict[str, tuple[Axis, ...]] = {}
    for name, tensor in tensors.items():
        if identities[name] in owned:
            parameters[name] = owned[identities[name]]
            owners[identities[name]][1].append(name)
        elif isinstance(tensor, nn.Parameter):
            parameters[name] = _new_axes(tuple(tensor.shape))
    return values, parameters, tuple(owners.values())


def _new_axes(shape: tuple[int, ...], pin: str | None = None) -> tuple[Axis, ...]:
    """An unknown axis for every dimension."""
    return tuple((Cell(n, pin),) if n > 1 else () if n == 1 else (Uniform(0),) for n in shape)


def _pin_unused(
    interpreter: Interpreter,
    program: ExportedProgram,
    tensors: Mapping[str, torch.Tensor],
    inputs: dict[Node, Any],
    parameters: dict[str, tuple[Axis, ...]],
    result: Any,
) -> tuple[str, ...]:
    """Hold still what no operator reads, and name it."""
    identities = _identities(tensors)
    returned = {id(value) for value in torch.utils._pytree.tree_leaves(result)}
    by_name = {node.name: value for node, value in inputs.items()}
    used = {
        identities[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.target in parameters and id(by_name[spec.arg.name]) in interpreter.read | returned
    }
    unused = tuple(name for name in parameters if identities[name] not in used and tensors[name].ndim)
    for name in unused:
        for axis in parameters[name]:
            interpreter.context.pin(axis, "not used by the model")
    return unused


def _pin_overlapping(
    interpreter: Interpreter,
    program: ExportedProgram,
    tensors: Mapping[str, torch.Tensor],
    parameters: dict[str, tuple[Axis, ...]],
) -> tuple[str, ...]:
    """Hold still tensors that share memory without being the same tensor: moving one would move the other."""
    held: dict[str, None] = {}
    constants = {n: t for n, t in program.constants.items() if isinstance(t, torch.Tensor) and has_entries(t)}
    everything = {**constants, **tensors}
    places: dict[int, list[str]] = defaultdict(list)
    for name, tensor in everything.items():
        if tensor.layout is torch.strided and tensor.numel():
            places[tensor.untyped_storage()._cdata].append(name)
    identities = _identities(everything)
    for names in places.values():
        for first, second in combinations(names, 2):
            if identities[first] != identities[second] and _overlap(everything[first], everything[second]):
                held.update({name: None for name in (first, second) if name in parameters})
    for name in held:
        for axis in parameters[name]:
            interpreter.context.pin(axis, "shares memory with another tensor")
    return tuple(held)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    spans = []
    for tensor in (a, b):
        start = int(tensor.storage_offset())
        spans.append((start, start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))))
    return spans[0][0] <= spans[1][1] and spans[1][0] <= spans[0][1]


def _constant_or_input(spec: Any, node: Node, program: ExportedProgram, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A tensor whose entries are known, an input (all axes pinned), or a plain argument."""
    fake = node.meta.get("val")
    if not isinstance(fake, torch.Tensor):
        return fake
    known = None
    if spec.kind is InputKind.BUFFER:
        known = tensors.get(spec.target)
    elif spec.kind is InputKind.CONSTANT_TENSOR:
        known = program.constants.get(spec.target)
    if isinstance(known, torch.Tensor) and has_entries(known):
        return known.detach()
    why = "an input of the model" if spec.kind is InputKind.USER_INPUT else "a constant of the model"
    return Value(_new_axes(tuple(fake.shape), why))


def _identities(tensors: Mapping[str, torch.Tensor]) -> dict[str, Identity]:
    return {name: tensor_identity(tensor) for name, tensor in tensors.items()}


def _mutated(program: ExportedProgram, inputs: dict[Node, Any]) -> list[Any]:
    """Buffers that the forward pass writes (what it writes is among the outputs)."""
    specs = program.graph_signature.output_specs
    changed = {spec.target for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION}
    nodes = {n.name: n for n in inputs}
    return [inputs[nodes[s.arg.name]] for s in program.graph_signature.input_specs if s.target in changed]


def _structure(
    interpreter: Interpreter,
    parameters: dict[str, tuple[Axis, ...]],
    unused: tuple[str, ...],
    overlapping: tuple[str, ...],
    owners: Owners,
    still: tuple[str, ...],
    outputs: Any,
) -> Structure:
    unifier = interpreter.context.unifier
    out = express(unifier, parameters)
    own = [Occurrence(axes) for axes in parameters.values()]
    nesting = find_nesting(unifier, interpreter.context.occurrences.values(), own)
    for atom in out.atoms.values():
        if atom not in nesting.read:
            unifier.pin((atom,), "not read on these inputs")
    tracked = frozenset(a for a in out.atoms.values() if a in nesting.read and not a.loose and a.size > 1)
    grading = grade_parameters(interpreter, tracked, nesting.within, owners, still, outputs)
    moved = {out.names[atom] for atom in grading.atoms()}
    within = _within(out, nesting.within, moved)
    within = merge_inseparable(out, within)
    _close(within)
    moved = {out.final(atom) for atom in grading.atoms()}
    free = [n for n, atom in out.atoms.items() if n in within and atom.size > 1 and (atom.pin is None or n in moved)]
    shown = {*free, *(outer for name in free for outer in within[name])}
    names = name_spaces(out.axes, shown)
    inner = {n: within[n] & names.keys() for n in free}
    around = {name for several in inner.values() for name in several}
    outer = [atom for atom in grading.atoms() if out.final(atom) in around]
    grading.settle({atom: _outer_atoms(out, atom, inner) for atom in grading.atoms()}, outer)
    kinds = {out.final(atom): moves for atom, moves in grading.kinds().items()}
    spaces, indices = make_spaces(names, out, inner, kinds)
    sizes = {space.name: space.size for space in (*spaces, *indices)}
    naming = Naming(
        {a: names[out.final(a)] for a in out.names if out.final(a) in names},
        sizes,
        {space.name: space.within for space in (*spaces, *indices)},
    )
    gauges = grading.gauges(naming)
    return Structure(
        spaces=spaces,
        axes={name: simplify(axes, names) for name, axes in out.axes.items()},
        indices=indices,
        opaque=_opaque(interpreter, parameters),
        unused=unused,
        notes=(
            *dict.fromkeys(unifier.conflicts),
            *(f"{name} shares memory with another tensor and is held still" for name in overlapping),
            *(("tensors of too many blocks keep their signs and scales",) if grading.grader.unopened else ()),
        ),
        pinned=_reasons(parameters),
        gauges=tuple(gauges.gauges),
        weights=gauges.weights,
        offsets=gauges.offsets,
        absorptions=gauges.absorptions,
        overlap=gauges.overlap,
        logit_shifts=grading.logit_shifts,
    )


def _outer_atoms(out: Expressions, atom: Cell, within: Mapping[str, set[str]]) -> frozenset[Cell]:
    """The atoms on whose indices what acts on an atom may depend."""
    outer = within.get(out.final(atom), set())
    return frozenset(a for a in out.names if out.final(a) in outer)


def _reasons(parameters: dict[str, tuple[Axis, ...]]) -> dict[str, str]:
    """Why axes are held still: the first reason in each."""
    reasons: dict[str, str] = {}
    for name, axes in parameters.items():
        for dim, axis in enumerate(axes):
            why = next((cell.pin for cell in _cells(axis) if cell.pin is not None), None)
            if why is not None:
                reasons[f"{name}[{dim}]"] = why
    return reasons


def _cells(axis: Axis) -> Iterator[Cell]:
    """Every cell of an axis, at any depth."""
    for factor in flatten(axis):
        if isinstance(factor, Cell):
            yield factor
            for part in factor.parts or []:
                yield from _cells(part)


def _within(out: Expressions, always: Mapping[Cell, frozenset[Cell]], moved: Collection[str]) -> dict[str, set[str]]:
    """For every atom by name, the atoms of parameters that it always occurs with (none for pinned ones).

    Pinned atoms on which something acts live within others, too, but not within each other.
    """
    within: dict[str, set[str]] = {}
    for name, atom in out.atoms.items():
        outer = always.get(atom, frozenset()) if atom.pin is None or name in moved else frozenset()
        within[name] = {out.names[a] for a in outer if a in out.names and a.size > 1 and not a.loose}
    for name in within:
        if out.atoms[name].pin is not None:
            within[name] -= {other for other in within[name] if name in within.get(other, ())}
    return within


def _close(within: dict[str, set[str]]) -> None:
    """Drop outer spaces whose own outer spaces are not all there."""
    changed = True
    while changed:
        changed = False
        for outer in within.values():
            loose = {o for o in outer if not within.get(o, set()) <= outer}
            if loose:
                outer -= loose
                changed = True


def _opaque(interpreter: Interpreter, parameters: dict[str, tuple[Axis, ...]]) -> tuple[Opaque, ...]:
    """What was not understood, with the parameter axes that each operator pinned."""
    pinned: dict[str, list[str]] = defaultdict(list)
    for name, axes in parameters.items():
        for dim, axis in enumerate(axes):
            for reason in dict.fromkeys(cell.pin for cell in _cells(axis)):
                if reason is not None:
                    pinned[reason].append(f"{name}[{dim}]")
    return tuple(Opaque(u.op, u.module, tuple(pinned[u.pin]), u.reason) for u in interpreter.unknown)
