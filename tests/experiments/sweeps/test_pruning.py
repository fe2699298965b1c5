"""The rule that ends trials early."""

import pytest

from metaq.experiments.sweeps.pruning import Pruning

RULE = Pruning(least_share=0.25, byte_margin=0.1, error_margin=0.01, epochs_in_a_row=3)
GOOD = [(1000.0, 0.05)] * 8


def is_pruned(point, epochs_done=8, finished=(GOOD,), rule=RULE, epochs=8):
    return rule.is_hopeless([point] * epochs_done, epochs, finished)


def test_larger_and_worse_by_both_margins():
    assert is_pruned((1101, 0.061))


@pytest.mark.parametrize(
    "point", [(900, 0.5), (5000, 0.04), (1099, 0.2), (5000, 0.059), (1000, 0.05)], ids=lambda point: str(point)
)
def test_what_is_smaller_or_better_or_close_goes_on(point):
    assert not is_pruned(point)


def test_nothing_is_pruned_without_finished_trials():
    assert not is_pruned((1e9, 1.0), finished=())


def test_one_finished_trial_must_beat_it_in_both():
    smaller, better = [(500.0, 0.5)] * 8, [(9000.0, 0.01)] * 8
    assert not is_pruned((5000, 0.2), finished=(smaller, better))
    assert is_pruned((5000, 0.2), finished=(smaller, better, GOOD))


def test_it_takes_several_epochs_in_a_row():
    bad, fine = (5000, 0.2), (900, 0.2)
    assert not RULE.is_hopeless([bad, bad, fine, bad, bad], 8, [GOOD])
    assert RULE.is_hopeless([fine, fine, bad, bad, bad], 8, [GOOD])


def test_the_first_share_is_never_pruned():
    long = [(1000.0, 0.05)] * 40
    assert not is_pruned((5000, 0.2), epochs_done=9, finished=(long,), epochs=40)
    assert is_pruned((5000, 0.2), epochs_done=10, finished=(long,), epochs=40)


def test_the_same_share_of_training_is_compared():
    """A finished trial that shrinks from 9,000 bytes to 1,000 in the second half of its epochs."""
    shrinking = [(9000.0, 0.05)] * 4 + [(1000.0, 0.05)] * 4
    first_half = [(5000, 0.2)] * 8
    assert not RULE.is_hopeless(first_half, 16, [shrinking])  # 8 of 16 epochs are as 4 of 8
    assert RULE.is_hopeless([*first_half, *first_half[:4]], 16, [shrinking])


def test_a_shorter_finished_trial_is_compared_too():
    assert is_pruned((5000, 0.2), finished=([(1000.0, 0.05)],))
