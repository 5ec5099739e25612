"""The demo: two networks trained on real images, their symmetry found, proved, counted and walked along."""

from weyl.demo._run import run

__all__ = ["run"]
