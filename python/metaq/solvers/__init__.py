"""Solvers are pure mathematics on tensors: they know no modules, models or files."""

from metaq.solvers import cutting_plane, dual, knapsack, perspective

__all__ = ["cutting_plane", "dual", "knapsack", "perspective"]
