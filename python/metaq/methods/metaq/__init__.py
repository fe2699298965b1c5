"""METaQ: a regulariser that is the optimum of an entropy problem."""

from metaq.methods.metaq.method import METaQ

__all__ = ["METaQ"]
