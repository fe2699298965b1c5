"""Training on several processes, in replicas and in shards: all as one process does it."""

import subprocess
from functools import cache
from pathlib import Path

import on_ranks
import pytest
import torch
from launcher import python_on
from torch.distributed import checkpoint as dcp

import metaq

# Of weights, against one process, where a control of the size decides by what sums of gradients round to.
TOLERANCES = {"sized": 1e-2, "target": 1e-3}
PROGRAM = Path(__file__).parent / "on_ranks.py"
REFUSALS = {
    "bound-before-other-replicas": "make the Compressor after DistributedDataParallel",
    "bound-before-shards": "make the Compressor after",
    "flattened": "fully_shard instead",
    "lc": "LC: expected whole parameters",
    "deep-compression": "DeepCompression: expected whole parameters",
    "hemp-2": "HEMP order: expected 1",
}


def run(folder, processes, *scenarios):
    """Scenarios on so many processes; for each, what every rank came to."""
    command = [*python_on(processes), str(PROGRAM), str(folder), *scenarios]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(processes)] for name in scenarios}


@cache
def alone(method, processes, steps=on_ranks.STEPS):
    """What one process comes to with the batches' same parts."""
    model = on_ranks.network()
    _, compressor = on_ranks.train(model, method, list(range(processes)), processes, steps)
    return on_ranks.outcome(model, compressor)


def check_equal(ranks, expected, tolerance=1e-6):
    """All ranks the same, bit for bit, and as one process up to rounding; the file is the first one's alone."""
    for rank in ranks:
        for kind in ("latent", "shown"):
            assert rank[kind].keys() == expected[kind].keys()
            for name, tensor in rank[kind].items():
                assert torch.equal(tensor, ranks[0][kind][name]), name
                torch.testing.assert_close(tensor, expected[kind][name], rtol=0, atol=tolerance)
        assert rank["measured"] == ranks[0]["measured"]
    assert ranks[0]["measured"]["size_bytes"] == expected["measured"]["size_bytes"]
    for name, tensor in ranks[0]["file"].items():
        assert torch.equal(tensor, ranks[0]["shown"][name]), name


def test_two_processes(tmp_path):
    """In replicas and in shards, uneven ones; METaQ."""
    found = run(tmp_path, 2, "brief-replicas", "brief-shards", "bound-before-shards")
    for name in ("brief-replicas", "brief-shards"):
        check_equal(found[name], alone("metaq", 2, on_ranks.FEW_STEPS))
    assert found["brief-shards"][1]["file"] == {}
    assert all(REFUSALS["bound-before-shards"] in refusal for refusal in found["bound-before-shards"])


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All scenarios, on two processes."""
    names = [name for name in on_ranks.SCENARIOS if not name.startswith(("brief", "saved", "resumed"))]
    return 2, run(tmp_path_factory.mktemp("ranks"), 2, *names)


@pytest.mark.slow
def test_four_processes(tmp_path):
    """Some have empty shards."""
    names = [("shards", "metaq"), ("shards", "hemp"), ("shards", "pruned"), ("replicas", "metaq")]
    found = run(tmp_path, 4, *("-".join(name) for name in names))
    for kind, method in names:
        check_equal(found[f"{kind}-{method}"], alone(method, 4))


@pytest.mark.slow
@pytest.mark.parametrize("method", on_ranks.METHODS)
@pytest.mark.parametrize("kind", ["shards", "replicas"])
def test_methods(everything, kind, method):
    processes, found = everything
    # HEMP has float histograms, and a control that steers by them widens what their sums' order changes.
    check_equal(found[f"{kind}-{method}"], alone(method, processes), TOLERANCES.get(method, 1e-6))


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario", ["shards-with-replicas", "shards-kept-whole", "shards-offloaded", "bound-before-replicas"]
)
def test_ways_to_train(everything, scenario):
    processes, found = everything
    check_equal(found[scenario], alone("metaq", processes))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["shards-bfloat16", "shards-seeded"])
def test_ways_that_one_process_has_not(everything, scenario):
    """Computed with in bfloat16; the shards of networks of different seeds."""
    _, found = everything
    check_equal(found[scenario], found[scenario][0])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", REFUSALS)
def test_refused_on_all_ranks(everything, scenario):
    for found in everything[1][scenario]:
        assert REFUSALS[scenario] in found
        assert "\n" not in found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # in one process
@pytest.mark.parametrize("method", on_ranks.RESUMED)
@pytest.mark.parametrize(("first", "second"), [(2, 4), (4, 2), (2, 1)])
def test_checkpoints_survive_another_number_of_ranks(tmp_path, method, first, second):
    """The batches have two parts all the way, but for rounding it is one training."""
    run(tmp_path, first, f"saved-{method}")
    if second == 1:
        found = [on_ranks.resumed(method, tmp_path, on_ranks.network(7), ([0, 1], 2))]
    else:
        found = run(tmp_path, second, f"resumed-{method}")[f"resumed-{method}"]
    check_equal(found, alone(method, 2))


def test_a_compressor_is_stateful():
    model = on_ranks.network()
    assert isinstance(metaq.Compressor(model, metaq.METaQ()), dcp.stateful.Stateful)
