"""Symmetry groups as such: spaces, kinds, gauges, orders, elements. Knows no tensors and no models."""

from weyl.groups._element import Element, Part
from weyl.groups._expansion import ExpansionCounts, expansion_counts
from weyl.groups._gauge import Gauge, GaugeKind
from weyl.groups._group import Group
from weyl.groups._order import Order, convolutional_order, feedforward_order
from weyl.groups._space import Kind, Space

__all__ = [
    "Element",
    "ExpansionCounts",
    "Gauge",
    "GaugeKind",
    "Group",
    "Kind",
    "Order",
    "Part",
    "Space",
    "convolutional_order",
    "expansion_counts",
    "feedforward_order",
]
