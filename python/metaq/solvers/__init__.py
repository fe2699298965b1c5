"""Pure tensor mathematics: no modules, no files."""

from metaq.solvers import cutting_plane, dual, knapsack, perspective

__all__ = ["cutting_plane", "dual", "knapsack", "perspective"]
