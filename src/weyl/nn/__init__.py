"""Classifiers and losses whose optimum is the simplex."""

from __future__ import annotations

from weyl.nn._heads import SimplexHead
from weyl.nn._losses import DotRegressionLoss

__all__ = ["DotRegressionLoss", "SimplexHead"]
