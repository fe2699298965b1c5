"""How the symbol sequence is cut for each coder."""

import pytest

from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.coding import CHUNK_SYMBOLS
from metaq.format.dtypes import BY_NAME
from metaq.format.header import TensorEntry
from metaq.format.sequence import cut_for, runs

SIZES = [1, 1000, 262_000, 262_150, 1_000_000, 5_000_000, 20_000_000]


def sequence(weights):
    """Rows of 50 weights, and a kept vector."""
    coded = TensorEntry("w", BY_NAME["float32"], (max(1, weights // 50), min(weights, 50)), UniformCodebook(1.0))
    return runs([coded, TensorEntry("b", BY_NAME["float16"], (70,))])


@pytest.mark.parametrize("coder", coding.coders)
@pytest.mark.parametrize("weights", SIZES)
def test_chunks_cover_the_sequence_in_order(coder, weights):
    whole = sequence(weights)
    cut = [run for chunk in cut_for(coder, whole) for run in chunk]
    for run in whole:
        parts = [part for part in cut if (part.tensor, part.plane) == (run.tensor, run.plane)]
        assert [part.elements.start for part in parts[1:]] == [part.elements.stop for part in parts[:-1]]
        assert (parts[0].elements.start, parts[-1].elements.stop) == (0, run.elements.stop)


@pytest.mark.parametrize(("weights", "chunks"), [*zip(SIZES, [1, 1, 1, 2, 4, 8, 20], strict=True)])
def test_adaptive_chunks_share_the_work_and_are_bounded(weights, chunks):
    sizes = [
        sum(len(run.elements) for run in chunk)
        for chunk in cut_for("adaptive", sequence(weights))
        if chunk[0].plane is None
    ]
    assert len(sizes) == chunks
    assert max(sizes) <= 1 << 20


def test_other_coders_take_chunks_as_large_as_they_may_be():
    sizes = [sum(len(run.elements) for run in chunk) for chunk in cut_for("mixing", sequence(5_000_000))]
    assert sizes[0] > CHUNK_SYMBOLS - 50
    assert len(sizes) == 2 + 2
