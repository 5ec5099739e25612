"""Make pairs of networks, compare them, and keep what is found."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import weyl
from studies.identity import _design as design
from studies.identity._design import KINDS, RANKED, Size
from studies.identity._disguise import changed, disguised, finished, has
from studies.identity._networks import Family, family, trained, tuned
from studies.identity._pair import pair_rows
from studies.identity._scores import scores

State = dict[str, Tensor]
Row = dict[str, Any]


class Setting(NamedTuple):
    """A family with its structure, its trained networks as they were saved, and as they are compared."""

    of: Family
    structure: weyl.Structure
    saved: list[State]
    states: list[State]
    sketches: list[Tensor]


class Trial(NamedTuple):
    """One pair: the number of the first network, that of the other one or -1, and the seed of the disguise."""

    kind: str
    first: int
    other: int
    seed: int


def setting(name: str, count: int, budget: float, folder: Path, tell: Callable[[str], None]) -> Setting:
    """Read or train the networks of a family."""
    of = family(name, budget)
    saved = [trained(of, seed, folder, tell) for seed in range(count)]
    ready = [of.ready(state) for state in saved]
    structure = of.structure(ready[0][0])
    states = [state for _, state in ready]
    return Setting(of, structure, saved, states, [weyl.sketch(structure, state) for state in states])


def planned(size: Size, count: int) -> Iterator[Trial]:
    """Every pair of a family; unrelated ones are as many as derived ones."""
    seed = itertools.count(1)
    derived = [kind for kind in size.kinds if KINDS[kind].verdict == design.RELATED]
    for kind in size.kinds:
        if KINDS[kind].change == "other":
            pairs = itertools.cycle(itertools.permutations(range(count), 2))
            yield from (Trial(kind, *next(pairs), next(seed)) for _ in range(len(derived) * count))
        else:
            yield from (Trial(kind, first, -1, next(seed)) for first in range(count))


def made(at: Setting, trial: Trial) -> tuple[State, State]:
    """The second network of a pair, as it would be without the disguise, and with it."""
    kind = KINDS[trial.kind]
    if kind.change == "other":
        plain = at.states[trial.other]
    elif kind.change == "tuned":
        plain = at.of.ready(tuned(at.of, at.saved[trial.first], trial.seed))[1]
    else:
        plain = changed(at.states[trial.first], kind.change, trial.seed)
    hidden = disguised(at.structure, plain, kind, trial.seed)
    head, seed = at.of.head, trial.seed
    return finished(plain, kind.after, head, seed), finished(hidden, kind.after, head, seed)


def measured(at: Setting, trial: Trial) -> Row:
    """Verdict and p-value of one pair, and the other scores where they are asked for."""
    plain, hidden = made(at, trial)
    start = time.perf_counter()
    found = weyl.compare(at.structure, at.states[trial.first], hidden)
    row: Row = {
        "family": at.of.name,
        **trial._asdict(),
        "verdict": found.verdict,
        "p": found.p_value,
        "agreement": None if found.evidence is None else rounded(found.evidence.agreement),
        "distance": rounded(found.distance),
        "rounding": None if found.rounding is None else found.rounding.name,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if trial.kind in (*RANKED, "unrelated"):
        first, sketch = at.states[trial.first], at.sketches[trial.first]
        for name, state in (("plain", plain), ("hidden", hidden)):
            row[name] = {
                score: rounded(value)
                for score, value in scores(
                    at.structure, first, state, (sketch, weyl.sketch(at.structure, state))
                ).items()
            }
    return row


def rounded(value: float | None) -> float | None:
    """Six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def study(size: Size, folder: Path, tell: Callable[[str], None], only: tuple[str, ...] = ()) -> Row:
    """Measure whatever the cache does not hold, and return every row.

    Parameters
    ----------
    size : Size
        What to measure.
    folder : Path
        Of trained networks and of the cache, one row a line.
    tell : callable
        Gets a line after every family and every training.
    only : tuple of str
        Families to measure; all if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / "rows.jsonl"
    known = dict(_lines(cache))
    rows, families = [], []
    for name, count in size.families.items():
        if only and name not in only:
            continue
        at: Setting | None = None
        start, fresh = time.perf_counter(), 0
        for trial in planned(size, count):
            key = json.dumps([name, size.budget, *trial])
            if key not in known:
                at = at or setting(name, count, size.budget, folder, tell)
                known[key] = measured(at, trial) if has(at.structure, KINDS[trial.kind]) else None
                fresh += 1
                _keep(cache, key, known[key])
            if known[key] is not None:
                rows.append(known[key])
        if at is not None:
            _keep(cache, f"family {name}", _facts(at))
            known[f"family {name}"] = _facts(at)
            tell(f"{name}: {fresh} pairs in {time.perf_counter() - start:.0f} s")
        families.append({"name": name, "networks": count, **known[f"family {name}"]})

    def remembered(key: str, measure: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = measure()
            _keep(cache, key, known[key])
        return known[key]

    pair = pair_rows(remembered, tell) if size.pair else []
    return {"families": families, "pair": pair, "rows": rows}


def _facts(at: Setting) -> Row:
    kinds = sorted({gauge.kind.value for gauge in at.structure.gauges})
    parameters = sum(t.numel() for t in at.states[0].values() if t.is_floating_point())
    return {"title": at.of.title, "steps": at.of.steps, "parameters": parameters, "gauges": kinds}


def _keep(cache: Path, key: str, row: Mapping[str, Any] | None) -> None:
    with cache.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "row": row}) + "\n")


def _lines(cache: Path) -> Iterator[tuple[str, Any]]:
    if cache.exists():
        for line in cache.read_text(encoding="utf-8").splitlines():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when the study was interrupted
            yield found["key"], found["row"]
