"""What a report says, as data: every number of it, ready for JSON, before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from weyl._version import __version__
from weyl.report._group import gauge_rows, order_told
from weyl.report._text import scientific, starred

if TYPE_CHECKING:
    from weyl.geometry import Collapse, Verdict
    from weyl.groups import Order
    from weyl.orbits import Orbit
    from weyl.proof import Proof
    from weyl.report._lookalikes import Lookalikes
    from weyl.report._trainings import Trainings
    from weyl.structure import Structure

__all__ = ["Demo", "Inspection", "Path", "Trained", "Twin", "families", "order_to_dict"]

SAME = 1e-9  # what rounding in float64 may change in a logit, with room to spare


@dataclass(frozen=True)
class Inspection:
    """What ``weyl inspect`` found about one model.

    Parameters
    ----------
    model : str
        Name to show.
    structure : Structure
        The spaces and the group.
    parameters, tensors : int
        Number of scalars, and of parameter tensors that hold them.
    proof : Proof or None
        Its check on the model; None if none was made.
    warnings : tuple of str
        What a reader must know besides.
    orbit : Orbit or None
        What the group does to the model's weights; None if they were not given.
    weights : str
        The file that they are from.
    """

    model: str
    structure: Structure
    parameters: int
    tensors: int
    proof: Proof | None = None
    warnings: tuple[str, ...] = ()
    orbit: Orbit | None = None
    weights: str = ""

    def to_dict(self, exact: bool = False) -> dict[str, Any]:
        """JSON-ready form; ``exact`` adds all digits of the order."""
        group = self.structure.group
        return {
            "weyl": __version__,
            "model": self.model,
            "parameters": self.parameters,
            "tensors": self.tensors,
            "group": group.symbol,
            "order": order_to_dict(group.order, exact),
            "counts": order_told(group),
            "permutations": order_to_dict(group.permutation_order, exact),
            "dimension": group.dimension,
            "gauges": gauge_rows(self.structure),
            "overlap": {"dimension": self.structure.overlap[0], "signs": self.structure.overlap[1]},
            "spaces": self.structure.rows(),
            "proof": None if self.proof is None else self.proof.to_dict(),
            "weights": self.weights or None,
            "orbit": None if self.orbit is None else self.orbit.to_dict(),
            "warnings": list(self.warnings),
            "structure": self.structure.to_dict(),
        }


@dataclass(frozen=True)
class Twin:
    """One equivalent minimum, and how it compares with the trained one.

    Parameters
    ----------
    seed : int
        Seed of the random element that leads to it.
    loss, accuracy : float
        On held-out data, in float64.
    difference : float
        Largest change of any logit, in float64.
    distance : float
        Euclidean distance in parameter space.
    moved : float
        Fraction of all parameters that have another value.
    """

    seed: int
    loss: float
    accuracy: float
    difference: float
    distance: float
    moved: float


@dataclass(frozen=True)
class Path:
    """Loss and accuracy along the straight line between two parameter vectors.

    Parameters
    ----------
    at : tuple of float
        Positions, 0 at the minimum and 1 at its twin.
    loss, accuracy : tuple of float
        On held-out data.
    """

    at: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """Largest excess of the loss over the straight line between its ends.

        Examples
        --------
        >>> Path((0.0, 0.5, 1.0), (1.0, 5.0, 2.0), (1.0, 0.1, 1.0)).barrier
        3.5
        """
        first, last = self.loss[0], self.loss[-1]
        return max(loss - (1 - t) * first - t * last for t, loss in zip(self.at, self.loss, strict=True))


@dataclass(frozen=True)
class Trained:
    """One network of the demo: what it is, how well it learned, and what its symmetry does.

    Parameters
    ----------
    title, description : str
        For people.
    inspection : Inspection
        Its structure and the proof.
    epochs : int
        Passes over the training data.
    seconds : float
        Time that training took.
    loss, accuracy : float
        On held-out data, in float64.
    norm : float
        Euclidean norm of all parameters.
    twins : tuple of Twin
        Equivalent minima.
    closest : float
        Smallest distance between any two of the minima, the trained one included.
    path : Path
        From the trained minimum to the first twin.
    collapse : mapping of str to Collapse
        Its representations on ``"train"`` and ``"test"``.
    trainings : Trainings or None
        It beside a second training; None if there was none.
    lookalikes : Lookalikes or None
        Networks that are it in disguise, or are not; None if there were none.
    """

    title: str
    description: str
    inspection: Inspection
    epochs: int
    seconds: float
    loss: float
    accuracy: float
    norm: float
    twins: tuple[Twin, ...]
    closest: float
    path: Path
    collapse: Mapping[str, Collapse]
    trainings: Trainings | None = None
    lookalikes: Lookalikes | None = None

    @property
    def verdict(self) -> Verdict:
        """How far the network has collapsed on its training data."""
        return self.collapse["train"].verdict()

    @property
    def holds(self) -> bool:
        """Whether the proof holds, every twin computes what the trained network does, and only copies count as such."""
        proof = self.inspection.proof
        if any(it is not None and not it.holds for it in (self.trainings, self.lookalikes)):
            return False
        return proof is not None and proof.holds and all(twin.difference <= SAME for twin in self.twins)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        own = {name: getattr(self, name) for name in ("title", "description", "epochs", "seconds")}
        return {
            **own,
            "test": {"loss": self.loss, "accuracy": self.accuracy},
            "norm": self.norm,
            "closest": self.closest,
            "twins": [asdict(twin) for twin in self.twins],
            "path": asdict(self.path) | {"barrier": self.path.barrier},
            "inspection": self.inspection.to_dict(),
            "collapse": {
                "verdict": {"level": self.verdict.level, "sentence": self.verdict.sentence},
                "parts": {name: found.to_dict() for name, found in self.collapse.items()},
            },
            "trainings": None if self.trainings is None else self.trainings.to_dict(),
            "lookalikes": None if self.lookalikes is None else self.lookalikes.to_dict(),
        }


@dataclass(frozen=True)
class Demo:
    """Everything that ``weyl demo`` found.

    Parameters
    ----------
    networks : tuple of Trained
        The trained networks.
    data : mapping
        Name of the data set and sizes of its parts.
    seed : int
        Seed of everything.
    seconds : float
        Time of the whole run.
    """

    networks: tuple[Trained, ...]
    data: Mapping[str, Any]
    seed: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether everything that was claimed was also found true."""
        return all(network.holds for network in self.networks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "weyl": __version__,
            "holds": self.holds,
            "seed": self.seed,
            "seconds": self.seconds,
            "data": dict(self.data),
            "networks": [network.to_dict() for network in self.networks],
        }


def order_to_dict(order: Order, exact: bool = False) -> dict[str, Any]:
    """JSON-ready form of an order, with all digits on request (as text: JSON readers have limits)."""
    data = {**order.to_dict(), "scientific": str(order), "text": scientific(order)}
    return data | {"exact": order.digits()} if exact else data


def families(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `Structure.rows` with those that differ in a layer's number only collected into one.

    Parameters
    ----------
    rows : sequence of mapping
        One a space.

    Returns
    -------
    list of dict
        The same keys, and ``times``; layer numbers of collected rows are written ``*``.

    Examples
    --------
    >>> common = {"size": 4, "copies": 1, "group": "S_4", "within": [], "occurrences": []}
    >>> [(r["space"], r["times"]) for r in families([{"space": f"h.{i}.fc", **common} for i in range(3)])]
    [('h.*.fc', 3)]
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (starred(row["space"]), row.get("kinds", row["group"]), row["copies"], tuple(map(starred, row["within"])))
        found.setdefault((*key, tuple(map(starred, row["occurrences"]))), []).append(row)
    collected = []
    for (space, _, _, within, places), members in found.items():
        if len(members) == 1:
            collected.append({**members[0], "times": 1})
        else:
            renamed = {"space": space, "within": list(within), "occurrences": list(places)}
            collected.append({**members[0], **renamed, "times": len(members)})
    return collected
