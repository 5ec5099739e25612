"""The numbers of a measurement that a logger takes."""

from __future__ import annotations

import math

from weyl.geometry import METRICS, Collapse

__all__ = ["scalars"]


def scalars(collapse: Collapse, prefix: str = "") -> dict[str, float]:
    """Collect the metrics of a measurement as plain numbers, without those that are None or infinite.

    Parameters
    ----------
    collapse : Collapse
        The measurement.
    prefix : str
        Put before every name.

    Returns
    -------
    dict of str to float
        By the names of :data:`weyl.geometry.METRICS`, in their order.

    Examples
    --------
    >>> import torch
    >>> from weyl.geometry import CollapseStatistics
    >>> features, labels = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
    >>> found = scalars(CollapseStatistics(4, 4).update(features, labels).compute(), "collapse/")
    >>> found["collapse/nc1"], "collapse/risk" in found
    (0.0, False)
    """
    values = ((name, getattr(collapse, name)) for name in METRICS)
    return {prefix + name: float(value) for name, value in values if value is not None and math.isfinite(value)}
