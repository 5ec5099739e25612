"""Capital letters, drawn as MNIST draws digits: images that a network of digits was not trained on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from weyl.data.split import Split, stratified_split
from weyl.errors import InputError

__all__ = ["FONTS", "letters"]

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
SIDE, GLYPH, CANVAS = 28, 20, 40  # as MNIST: the glyph fits 20×20 pixels, its centre of mass is that of the 28×28 image
FINE = 3  # drawn so much larger, then averaged


def letters(limit: int = 2600, held_out: int = 520, seed: int = 0) -> Split:
    """Draw the letters A to Z in the DejaVu fonts that matplotlib ships, 28×28, white on black.

    Each image is a glyph of a random font, turned by up to 12°, sheared and stretched a little, scaled to a box of
    20×20 pixels and put with its centre of mass at the centre. Some letters look like digits (O, I, S, Z, B): a
    detector of what is new cannot be right about all of them.

    Parameters
    ----------
    limit : int
        How many to train on.
    held_out : int
        How many to hold out.
    seed : int
        Of the jitter and of the split; no global random state is read or changed.

    Returns
    -------
    Split
        Images ``(n, 1, 28, 28)``, standardised by their own training part, and labels (0 is A). For a network of
        digits take ``letters().rescaled(digits.mean, digits.std)``.

    Raises
    ------
    InputError
        If either size is less than one.

    Examples
    --------
    >>> split = letters(limit=52, held_out=26)
    >>> tuple(split.train_x.shape), split.classes[:3]
    ((52, 1, 28, 28), ('A', 'B', 'C'))
    """
    if limit < 1 or held_out < 1:
        raise InputError(f"letters: limit and held_out must be positive, got limit={limit} and held_out={held_out}")
    total = limit + held_out
    labels = torch.arange(total) % len(CLASSES)
    random = np.random.default_rng(seed)
    fonts = _fonts()
    images = np.stack([_glyph(CLASSES[int(c)], fonts[random.integers(len(fonts))], random) for c in labels])
    stack = torch.from_numpy(images).unsqueeze(1)
    return stratified_split(stack, labels, held_out=held_out, limit=limit, seed=seed, name="letters", classes=CLASSES)


def _fonts() -> list[Any]:
    """The fonts, large."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [ImageFont.truetype(str(folder / f"{name}.ttf"), GLYPH * FINE) for name in FONTS]


def _glyph(letter: str, font: Any, random: np.random.Generator) -> Float64[np.ndarray, "height width"]:
    """One image, values from 0 to 1."""
    from PIL import Image, ImageDraw

    big = CANVAS * FINE
    canvas = Image.new("L", (big, big))
    ImageDraw.Draw(canvas).text((big / 2, big / 2), letter, fill=255, font=font, anchor="mm")
    turn, shear = random.uniform(-math.pi / 15, math.pi / 15), random.uniform(-0.15, 0.15)
    jitter = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    jitter = jitter @ np.array([[random.uniform(0.85, 1.15), shear], [0.0, 1.0]])
    canvas = _moved(canvas, jitter, (big / 2, big / 2), big)
    # The box of what was drawn, with its longer side on GLYPH pixels, centred by mass.
    left, top, right, bottom = canvas.getbbox()
    pixels = np.asarray(canvas, dtype=np.float64)
    weight = pixels / pixels.sum()
    centre = (float(weight.sum(0) @ np.arange(big)), float(weight.sum(1) @ np.arange(big)))
    shrink = max(right - left, bottom - top) / (GLYPH * FINE)
    side = SIDE * FINE
    fitted = _moved(canvas, np.eye(2) * shrink, centre, side)
    fine = np.asarray(fitted, dtype=np.float64).reshape(SIDE, FINE, SIDE, FINE)
    averaged: Float64[np.ndarray, "height width"] = fine.mean(axis=(1, 3)) / 255
    return averaged


def _moved(image: Any, matrix: Float64[np.ndarray, "2 2"], centre: tuple[float, float], side: int) -> Any:
    """Give every pixel ``p`` of a new square image the value of the old one at ``matrix (p − middle) + centre``."""
    from PIL import Image

    a, b, c, d = matrix.flatten().tolist()
    half = (side - 1) / 2
    x, y = centre[0] - a * half - b * half, centre[1] - c * half - d * half
    return image.transform((side, side), Image.Transform.AFFINE, (a, b, x, c, d, y), Image.Resampling.BILINEAR)
