"""What is varied, and every constant."""

from __future__ import annotations

from dataclasses import dataclass

LEARNING_RATE = 1e-3  # of Adam; falls to zero along a cosine in a training, stays in a fine-tuning
BATCH = 64  # of the networks that only this study trains
TUNED = 0.05  # share of the steps of the training that a fine-tuning has
NOISE = 1e-4  # relative to the spread of every tensor
PRUNED = 0.2  # share of the weights of every matrix, the smallest ones
CONTEXT = 32  # characters that a language model reads at once
VOCABULARY = 128  # ASCII
WIDTH, HEADS, LAYERS = 64, 4, 2  # of the language models

EXACT, ROUNDED, RELATED, APART = "same function", "same up to precision", "derived", "unrelated"


@dataclass(frozen=True)
class Kind:
    """One way to make a second network from a first.

    Parameters
    ----------
    title : str
        For the table.
    verdict : str
        What `weyl.compare` has to say.
    moves : tuple of str or None
        Kinds of moves of the disguise; None for all that the group has.
    change : str
        What is done to the network before it is disguised; empty for nothing.
    after : str
        What is done to the disguised network.
    """

    title: str
    verdict: str
    moves: tuple[str, ...] | None = None
    change: str = ""
    after: str = ""


KINDS = {
    "permuted": Kind("units permuted", EXACT, ("permute",)),
    "flipped": Kind("signs flipped", EXACT, ("sign",)),
    "scaled": Kind("units scaled", EXACT, ("scale",)),
    "rotated": Kind("heads or stream mixed by matrices", EXACT, ("mix",)),
    "all": Kind("all of them at once", EXACT),
    "bf16": Kind("all, then bfloat16", ROUNDED, after="bfloat16"),
    "fp16": Kind("all, then float16", ROUNDED, after="float16"),
    "int8": Kind("all, then 8 bits a row", ROUNDED, after="int8"),
    "noise": Kind(f"noise of {NOISE:g}", RELATED, change="noise"),
    "tuned": Kind(f"fine-tuned for {TUNED:.0%} of the steps", RELATED, change="tuned"),
    "pruned": Kind(f"{PRUNED:.0%} of the weights pruned", RELATED, change="pruned"),
    "head": Kind("head replaced", RELATED, after="head"),
    "classes": Kind("head replaced by one of half the size", RELATED, after="classes"),
    "unrelated": Kind("trained from another seed", APART, change="other"),
}
# What is ranked by a number: whether the second network comes from the first.
RANKED = ("noise", "tuned", "pruned", "head")
SCORES = {
    "weyl": "weyl.compare: -log10 p",
    "sketch": "weyl.sketch: minus the distance",
    "cosine": "cosine of all weights",
    "cka": "linear CKA of the matrices, by rows",
    "cka_best": "linear CKA, by rows or by columns, the larger",
    "hash": "SHA-256: equal or not",
}


@dataclass(frozen=True)
class Size:
    """How much of it is run.

    Parameters
    ----------
    families : mapping of str to int
        Networks of every family.
    pair : bool
        Whether the pair of published checkpoints is compared.
    budget : float
        Share of the full training of what is trained for this study.
    kinds : tuple of str
        Of `KINDS`.
    """

    families: dict[str, int]
    pair: bool
    budget: float
    kinds: tuple[str, ...]


FULL = Size(
    families={
        "fashion-mlp-512": 4,
        "mnist-mlp-128": 4,
        "mnist-tanh-128": 4,
        "fashion-cnn-16": 4,
        "gpt2": 4,
        "llama": 4,
    },
    pair=True,
    budget=1.0,
    kinds=tuple(KINDS),
)
SMOKE = Size(
    families={"digits-tanh-64": 2},
    pair=False,
    budget=0.5,
    kinds=("permuted", "all", "bf16", "noise", "tuned", "classes", "unrelated"),
)
