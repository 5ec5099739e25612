"""Text that is safe to show, and numbers as people write them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weyl.groups import Order

__all__ = ["counted", "power_of_ten", "printable", "scientific", "starred", "subscripts", "to_json"]

# A path component that is a layer number: ``h.3.mlp``, not ``conv1`` and not the ``#2`` of a second space.
LAYER = re.compile(r"(?:(?<=\.)|^)\d+(?=[.#\[]|$)")
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def printable(text: object) -> str:
    r"""Escape what a terminal would obey instead of showing: control, direction and other invisible characters.

    Examples
    --------
    >>> printable("fc\x1b[31m1")
    'fc\\x1b[31m1'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def counted(number: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> counted(1, "sweep"), counted(1200, "sweep")
    ('1 sweep', '1,200 sweeps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def power_of_ten(order: Order) -> tuple[str, str]:
    """Mantissa and exponent of an order, as text; the exponent is empty where the number is short enough.

    Examples
    --------
    >>> from weyl.groups import Order
    >>> power_of_ten(Order.of({4: 1})), power_of_ten(Order.of({512: 3}))
    (('24', ''), ('4.20', '3499'))
    """
    mantissa, _, exponent = str(order).partition("e")
    return (mantissa, exponent) if exponent else (f"{int(order):,}", "")


def scientific(order: Order) -> str:
    """An order in one line of plain text.

    Examples
    --------
    >>> from weyl.groups import Order
    >>> scientific(Order.of({512: 3}))
    '4.20 × 10³⁴⁹⁹'
    """
    mantissa, exponent = power_of_ten(order)
    return f"{mantissa} × 10{exponent.translate(SUPERSCRIPTS)}" if exponent else mantissa


def subscripts(symbol: str) -> str:
    """Group symbols with lowered and raised numbers.

    Examples
    --------
    >>> subscripts("S_64^3 × S_10")
    'S₆₄³ × S₁₀'
    """
    lowered = re.sub(r"_(\d+)", lambda found: found[1].translate(SUBSCRIPTS), symbol)
    return re.sub(r"\^(\d+)", lambda found: found[1].translate(SUPERSCRIPTS), lowered)


def starred(name: str) -> str:
    """A name with its layer numbers written ``*``.

    Examples
    --------
    >>> starred("h.3.conv1#2"), starred("0.weight[1]")
    ('h.*.conv1#2', '*.weight[1]')
    """
    return LAYER.sub("*", name)


def to_json(data: Mapping[str, Any]) -> str:
    r"""JSON text in ASCII, so that no name can steer a terminal; values that are not finite become null.

    Examples
    --------
    >>> print(to_json({"é": float("nan")}))
    {
      "\u00e9": null
    }
    """
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
