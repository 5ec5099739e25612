"""What is varied, and every constant."""

from __future__ import annotations

from dataclasses import dataclass

from weyl.geometry import COLLAPSED

CLASSES = 10
HIDDEN = (128, 128, 64)  # widths of the perceptron; the last is the dimension of the features
CHANNELS = (8, 16)  # of the convolutional network, before its layer of HIDDEN[-1] features
BATCH = 128
MOMENTUM = 0.9
# Picked in a pilot with one seed, so that the first arm reaches the terminal phase; the same for all activations.
LEARNING_RATE = {"sgd": 0.1, "adam": 0.002}
DECAY, WEAK_DECAY = 5e-3, 5e-4  # an L2 penalty, in the gradient for both optimisers: one objective
RATIO = 100  # of class sizes, or of class weights
HEAD_NORM = 1.5  # of the class vectors of a fixed head: about that with which trained ones end
PATIENCE = 3  # epochs without a lower held-out loss, for early stopping
# What counts as collapsed, on training data.
LIMITS = dict(COLLAPSED)
TRAJECTORY = ("accuracy", "risk", "nc1", "nc1_ratio", "cdnv", "nc2", "nc3", "nc4", "sk_defect", "logit_spread")
FINAL = (*TRAJECTORY, "equinorm", "equiangular", "ncm_accuracy", "radius", "ew_gap")


@dataclass(frozen=True)
class Size:
    """How much of it is run.

    Parameters
    ----------
    train, held_out : int
        Images.
    epochs : int
        Passes over the training images; the learning rate falls to zero along a cosine.
    seeds : tuple of int
        Each seed is another split, another start, another order and, where it applies, other labels and other rare
        classes.
    """

    train: int
    held_out: int
    epochs: int
    seeds: tuple[int, ...]

    @property
    def measured(self) -> tuple[int, ...]:
        """Epochs at which the metrics are taken, about evenly spaced on a logarithmic scale."""
        steps = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 160, 200, 300, 500)
        return (*(step for step in steps if step < self.epochs), self.epochs)


FULL = Size(train=2000, held_out=1000, epochs=200, seeds=(0, 1, 2))
SMOKE = Size(train=200, held_out=100, epochs=4, seeds=(0,))


@dataclass(frozen=True)
class Arm:
    """One way to train; the defaults are the base from which the others differ.

    Parameters
    ----------
    name : str
        Key in the results.
    title : str
        For people: what differs from the base.
    labels : {"true", "random"}
        Random labels are drawn uniformly and stay the same during training.
    activation : {"relu", "tanh", "sigmoid"}
    optimiser : {"sgd", "adam"}
    decay : float
        Of the L2 penalty.
    head : {"linear", "simplex", "simplex-start", "parameter-free", "gaussian"}
        Trained; fixed at the simplex; trained from the simplex; simplex without parameters; fixed at random.
    sizes : {"equal", "100:1"}
        Of the classes; half of them, drawn by the seed, are rare.
    weights : {"equal", "100:1", "inverse"}
        Of the classes in the loss.
    network : {"mlp", "cnn"}
    norm : bool
        Whether there is batch normalisation before each activation.
    early : bool
        Whether training stops early, with the weights of least held-out loss.
    longer : int
        How many times as many epochs.
    signed : bool
        Whether the last activation is left out, so that features can be negative.
    """

    name: str
    title: str
    labels: str = "true"
    activation: str = "relu"
    optimiser: str = "sgd"
    decay: float = DECAY
    head: str = "linear"
    sizes: str = "equal"
    weights: str = "equal"
    network: str = "mlp"
    norm: bool = True
    early: bool = False
    longer: int = 1
    signed: bool = False


def _crossing() -> list[Arm]:
    """Activation × optimiser × weight decay, but for the base."""
    arms = []
    for decay, strength in ((DECAY, ""), (WEAK_DECAY, ", weak decay")):
        for activation, shown in (("relu", "ReLU"), ("tanh", "tanh"), ("sigmoid", "sigmoid")):
            for optimiser, short in (("sgd", "SGD"), ("adam", "Adam")):
                name = f"{activation}-{optimiser}{'-weak' * (decay == WEAK_DECAY)}"
                title = f"{shown}, {short}{strength}"
                arms.append(Arm(name, title, activation=activation, optimiser=optimiser, decay=decay))
    return arms[1:]


DESIGN: dict[str, tuple[Arm, ...]] = {
    "Base": (Arm("base", "ReLU, SGD, true labels, trained head"),),
    "Activation and optimiser": (
        *_crossing(),
        Arm("tanh-long", "tanh, SGD, three times as long", activation="tanh", longer=3),
    ),
    "No weight decay": (
        Arm("no-decay-sgd", "ReLU, SGD, no decay", decay=0.0),
        Arm("no-decay-adam", "ReLU, Adam, no decay", decay=0.0, optimiser="adam"),
    ),
    "Random labels": (
        Arm("random-relu-sgd", "random labels", labels="random"),
        Arm("random-relu-adam", "random labels, Adam", labels="random", optimiser="adam"),
        Arm("random-tanh-sgd", "random labels, tanh", labels="random", activation="tanh"),
        Arm("random-simplex", "random labels, head fixed at the simplex", labels="random", head="simplex"),
    ),
    "Class sizes and weights": (
        Arm("sizes", "sizes 100:1", sizes="100:1"),
        Arm("sizes-inverse", "sizes 100:1, loss weights 1:100", sizes="100:1", weights="inverse"),
        Arm("sizes-simplex", "sizes 100:1, head fixed at the simplex", sizes="100:1", head="simplex"),
        Arm("sizes-weak", "sizes 100:1, weak decay", sizes="100:1", decay=WEAK_DECAY),
        Arm("weights", "equal sizes, loss weights 100:1", weights="100:1"),
        Arm("weights-weak", "equal sizes, loss weights 100:1, weak decay", weights="100:1", decay=WEAK_DECAY),
    ),
    "Head": (
        Arm("simplex", "fixed at the simplex", head="simplex"),
        Arm("simplex-start", "starts at the simplex, trained", head="simplex-start"),
        Arm("parameter-free", "simplex without parameters", head="parameter-free"),
        Arm("gaussian", "control: fixed at random vectors", head="gaussian"),
        Arm("signed", "features before the last ReLU, trained head", signed=True),
        Arm("signed-simplex", "features before the last ReLU, fixed at the simplex", signed=True, head="simplex"),
    ),
    "Network": (
        Arm("no-norm", "no batch normalisation", norm=False),
        Arm("no-norm-tanh", "no batch normalisation, tanh", norm=False, activation="tanh"),
        Arm("cnn", "convolutional", network="cnn"),
    ),
    "Control": (Arm("early", "stopped early", early=True),),
}
ARMS: dict[str, Arm] = {arm.name: arm for arms in DESIGN.values() for arm in arms}
SMOKE_ARMS = ("base", "sizes-simplex", "early")

# The picture: the base with four classes, features seen between steps.
PICTURE_CLASSES = (0, 1, 2, 3)
PICTURE_SNAPSHOTS = 90
PICTURE_POINTS = 100  # samples drawn, a class
PICTURE_PANELS = (0.0, 0.02, 1.0)  # moments drawn, as parts of the training
