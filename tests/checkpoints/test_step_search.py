"""The search for a step: targets met on curves unlike the guess, ends told apart, leaps survived; guesses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaq import metrics
from metaq.assign import nearest
from metaq.checkpoints.step_guesses import guessed_bits, guessed_error
from metaq.checkpoints.step_search import NEAR, StepProblem, find_step
from metaq.codebook import UniformCodebook
from metaq.errors import InputError

OCTAVES = (-20.0, 6.0)


def search(value, problem):
    tried = []

    def try_step(step):
        tried.append(step)
        return value(step), step

    return find_step(try_step, problem), tried


@given(st.floats(1e-9, 0.5), st.floats(0.2, 5), st.floats(0.7, 1.4))
def test_errors(target, factor, power):
    def value(step):
        return factor * step ** (2 * power) / (1 + factor * step ** (2 * power))

    problem = StepProblem(target, OCTAVES, True, lambda step: min(1.0, step**2))
    if value(2.0 ** OCTAVES[0]) > target:
        with pytest.raises(InputError, match="expected at least"):
            search(value, problem)
        return
    found, tried = search(value, problem)
    assert (1 - NEAR) * target <= value(found) <= target or found == 2.0 ** OCTAVES[1]
    assert len(tried) <= 20


@given(st.floats(0.1, 16), st.floats(0.5, 2), st.floats(0.7, 1.4), st.floats(0, 3))
def test_sizes(target, factor, slope, offset):
    def value(step):
        return offset + factor * math.log2(1 + step**-slope)

    problem = StepProblem(target, OCTAVES, False, lambda step: math.log2(1 + 1 / step))
    if value(2.0 ** OCTAVES[1]) > target:
        with pytest.raises(InputError, match="expected at least"):
            search(value, problem)
        return
    found, tried = search(value, problem)
    assert (1 - NEAR) * target <= value(found) <= target or found == 2.0 ** OCTAVES[0]
    assert len(tried) <= 20


def test_a_guess_that_is_right_is_all_it_takes():
    problem = StepProblem(0.01, OCTAVES, True, lambda step: step**2)
    assert search(lambda step: step**2, problem)[1] == [2.0 ** problem.place()]
    nearly = StepProblem(0.01, OCTAVES, True, lambda step: 3 * step**2, factor=1 / 3)
    assert len(search(lambda step: step**2, nearly)[1]) == 1


def test_leaps():
    """Between 1 and 3 there is nothing, but for a narrow place beside."""
    problem = StepProblem(2.0, OCTAVES, False, lambda step: 4 - step)
    assert search(lambda step: 3.0 if step < 1.5 else 1.0, problem)[0] >= 1.5
    beside = 1.5 * 2**0.012
    found, _ = search(lambda step: 3.0 if step < 1.5 else 1.99 if beside < step < 1.01 * beside else 1.0, problem)
    assert beside < found < 1.01 * beside


def test_guesses():
    weights = {"a": torch.randn(70, 50, generator=torch.Generator().manual_seed(0)), "b": torch.empty(0, 2)}
    for step in (0.1, 0.7):
        levels = nearest(weights["a"], UniformCodebook(step))
        misses = (weights["a"] - step * levels).square().sum() / weights["a"].square().sum()
        assert guessed_error(weights)(step) == pytest.approx(float(misses), rel=1e-4)
        assert guessed_bits(weights)(step) == pytest.approx(metrics.entropy_bits(levels) / 3500, rel=1e-6)
    fine = guessed_bits(weights)
    assert fine(2.0**-20) == pytest.approx(fine(2.0**-15) + 5)


@pytest.mark.parametrize("weights", [{}, {"a": torch.zeros(3, 3)}, {"a": torch.empty(0, 3)}])
def test_guesses_of_nothing(weights):
    assert guessed_error(weights)(0.5) == 0
    assert guessed_bits(weights)(0.5) == 0


def test_many_weights_are_sampled_evenly():
    weights = {f"{i}": torch.full((40_000,), float(i)) for i in range(4)}
    assert guessed_bits(weights)(1.0) == pytest.approx(2, abs=1e-3)
