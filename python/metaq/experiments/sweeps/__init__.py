"""Sweeps: many trials of one recipe with some entries varied, and what size costs in error."""
