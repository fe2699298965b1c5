"""Native kernels of training and of solvers check their arguments: kinds and sizes of arrays, indices in them."""

import copy

import numpy as np
import pytest
import torch

from metaq import _native
from metaq.methods.metaq.quantized_view import QuantizedView


def quantized_parameters(sizes=(3, 2), latent_sizes=(3, 2)):
    weights, latents = ([np.full(size, 0.6, np.float32) for size in each] for each in (sizes, latent_sizes))
    return weights, latents, _native.QuantizedParameters(weights, latents)


def test_quantized_parameters_write_and_restore():
    weights, latents, parameters = quantized_parameters()
    counts = np.zeros((2, 3), np.int64)
    parameters.write_quantized([1.0, 0.5], 1, 1, counts, 1)
    assert [each.tolist() for each in weights] == [[1.0] * 3, [0.5] * 2]
    assert counts.tolist() == [[0, 0, 3], [0, 0, 2]]
    gradients = [np.zeros_like(each) for each in weights]
    parameters.restore_latent(gradients, [1.0, 0.5], 1, np.ones((2, 3, 2), np.float32), 2.0, 1)
    assert all(map(np.array_equal, weights, latents))
    assert [each.tolist() for each in gradients] == [[2.0] * 3, [0.0] * 2]


@pytest.mark.parametrize(
    ("latent_sizes", "steps", "radius", "shape", "message"),
    [
        ((3, 3), [1.0, 1.0], 1, (2, 3), "latents: expected 2, found 3"),
        ((3,), [1.0, 1.0], 1, (2, 3), "latents: expected 2, found 1"),
        ((3, 2), [1.0], 1, (2, 3), "steps: expected 2, found 1"),
        ((3, 2), [1.0, 1.0], -1, (2, 3), "radius: expected 0 to 2\\^12, found another"),
        ((3, 2), [1.0, 1.0], 2, (2, 3), "columns of counts: expected 5, found 3"),
        ((3, 2), [1.0, 1.0], 1, (1, 3), "rows of counts: expected 2, found 1"),
    ],
)
def test_quantized_parameters_refuse_other_sizes(latent_sizes, steps, radius, shape, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        quantized_parameters(latent_sizes=latent_sizes)[2].write_quantized(
            steps, 4, radius, np.zeros(shape, np.int64), 1
        )


def test_quantized_parameters_refuse_symbols_that_float32_does_not_have():
    with pytest.raises(ValueError, match=r"^reach: expected 0 to 2\^22, found another$"):
        quantized_parameters()[2].write_quantized([1.0, 1.0], (1 << 22) + 1, 1, None, 1)


def test_any_number_of_threads_gives_the_same():
    generator = np.random.default_rng(0)
    exact = [generator.normal(size=size).astype(np.float32) for size in (700_001, 5, 0, 300_000)]
    slopes = generator.normal(size=(4, 7, 2)).astype(np.float32)
    found = []
    for threads in (1, 4):
        weights, latents = ([each.copy() for each in exact] for _ in range(2))
        gradients = [np.ones_like(each) for each in exact]
        counts = np.zeros((4, 7), np.int64)
        parameters = _native.QuantizedParameters(weights, latents)
        parameters.write_quantized([0.25, 0.5, 1.0, 0.125], 9, 3, counts, threads)
        quantized = [each.copy() for each in weights]
        parameters.restore_latent(gradients, [0.25, 0.5, 1.0, 0.125], 3, slopes, 0.5, threads)
        assert all(map(np.array_equal, weights, exact))
        assert counts.sum(axis=1).tolist() == [each.size for each in exact]
        found.append([*quantized, counts, *gradients])
    assert all(map(np.array_equal, *found))


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((3, 2), np.float32)[:, 0], [0.0, 0.0, 0.0]])
def test_arrays_of_other_kinds_are_refused(wrong):
    with pytest.raises(TypeError):
        _native.QuantizedParameters([np.zeros(3, np.float32)], [wrong])


def tuples(cells=(0, 0, 0, 0), base=3, histogram_size=9, level_count=3):
    weights = [np.array([-1.0, 0.0, 0.5, 1.0], np.float32)]
    table = np.array([[np.linspace(-1, 1, base)], [np.full(base, (base - 1) / 2)]], np.float32)
    shares = np.zeros(4, np.float32)
    return weights, table, [level_count], np.array(cells, np.int32), shares, 2, np.zeros(histogram_size)


def test_tuples_are_counted():
    arguments = tuples()
    assert _native.count_tuples(*arguments) == pytest.approx(0.25)
    assert arguments[-1].sum() == 2.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cells": (0, 0, 0)}, "cells: expected 4, found 3"),
        ({"histogram_size": 8}, "tuples: expected base\\^order cells, found fewer"),
        ({"histogram_size": 10}, "cells of tuples: expected 9, found 10"),
        ({"level_count": 4}, "level counts: expected 1 to as many as the table's columns, found others"),
        ({"base": 1, "level_count": 1, "histogram_size": 1}, "table: expected 2 columns or more, found fewer"),
    ],
)
def test_tuples_refuse_other_sizes(changed, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        _native.count_tuples(*tuples(**changed))


@pytest.mark.parametrize("cell", [2, -1, 2**31 - 1, -(2**31)])
def test_tuple_gradients_refuse_cells_that_are_none(cell):
    weights, table, counts, cells, shares, order, histogram = tuples(cells=(0, 1, cell, 0))
    gradients, logs = [np.zeros(4, np.float32)], histogram.astype(np.float32)
    with pytest.raises(ValueError, match=r"^cells: expected those that count_tuples fills, found others$"):
        _native.add_tuple_gradient(
            weights, gradients, table, counts, cells, shares, order, logs, 1.0, 1.0, False, False
        )


def knapsack(right=(1, 2), places=(0.0, 1.0, 2.0), slack=-1.0):
    hull = np.array([[0, 1]]), np.array([right]), np.array([[-1.0, 1.0]])
    kinds = np.int64, np.int64, np.float64, np.float64, np.float64
    optima = tuple(np.zeros(1, kind) for kind in kinds)
    _native.solve_knapsacks(np.array([0.5]), np.array([1.0, 0.0, 1.0]), np.array(places), hull, slack, optima)
    return [each.item() for each in optima]


def test_knapsacks_are_solved():
    assert knapsack() == [0, 1, 0.5, -1.0, 0.5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"right": (1, 3)}, "hull: expected vertices among the places, found others"),
        ({"right": (-1, 2)}, "hull: expected vertices among the places, found others"),
        ({"places": (0.0, 1.0, 1.0)}, "places: expected increasing numbers, found others"),
        ({"places": (0.0, np.nan, 1.0)}, "places: expected increasing numbers, found others"),
        ({"places": (0.0, 1.0, np.inf)}, "places: expected increasing numbers, found others"),
        ({"places": (0.0, 1.0)}, "places: expected 3, found 2"),
        ({"slack": 0.4}, "slack: expected less than a third of a step, found more"),
    ],
)
def test_knapsacks_refuse_what_leads_out_of_bounds(changed, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        knapsack(**changed)


@pytest.mark.parametrize(("values", "counts", "clusters"), [(3, 2, 2), (3, 3, 0), (3, 3, 4), (0, 0, 1)])
def test_kmeans_refuses_other_sizes(values, counts, clusters):
    with pytest.raises(ValueError, match="expected"):
        _native.kmeans(np.arange(values, dtype=float), np.ones(counts), np.zeros(clusters, np.int64))


# A kernel that held on to the old parameters would write to memory that is theirs no more.
def test_kernels_follow_parameters_that_move_and_copies():
    parameter = torch.nn.Parameter(torch.full((4,), 0.6))
    view = QuantizedView([parameter], [1.0], 1)
    view.put_quantized()
    view.put_latent()
    other = copy.deepcopy(view)
    parameter.data = torch.full((4,), -0.6)
    view.put_quantized()
    assert parameter.tolist() == [-1.0] * 4
    other.put_quantized()
    assert other.parameters[0].tolist() == [1.0] * 4
    assert parameter.tolist() == [-1.0] * 4
