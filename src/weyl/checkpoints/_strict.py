"""JSON of foreign origin, read strictly: no name twice, no numbers that JSON does not have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

__all__ = ["strict_object"]


def strict_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    data : bytes
        UTF-8.

    Raises
    ------
    ValueError
        If it is not UTF-8, not JSON, nested too deep, no object, or if an object has a name twice.

    Examples
    --------
    >>> strict_object(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the name 'a' occurs twice
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__} and no object")
    return found


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} occurs twice")
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
