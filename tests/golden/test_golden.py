"""Golden files: what they hold, and that writing it again gives the same bytes. `make.py` writes them anew."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metaq
from metaq import compressed_model
from metaq.compressed_model import read_model
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors

FOLDER = Path(__file__).parent

_spec = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
FILES = make.files()


@pytest.fixture(params=FILES, ids=str)
def golden(request):
    return FOLDER / request.param, *FILES[request.param]


def test_it_decodes_to_its_model(golden):
    path, model, _ = golden
    reader = Reader(path.read_bytes(), path.name, takes_differences=True)
    model = replace(model, base=None)  # of a difference the values
    decoded, expected = load_tensors(reader), model.decompress()
    assert list(decoded) == list(expected)
    assert digest(decoded) == digest(expected)
    assert reader.header.metadata == model.metadata
    assert digest(replace(read_model(reader), base=None).decompress()) == digest(expected)


def test_it_encodes_to_the_same_bytes(golden):
    path, model, coder = golden
    assert compressed_model.encode(model, coder) == path.read_bytes()
    reader = Reader(path.read_bytes(), takes_differences=True)
    assert compressed_model.encode(read_model(reader), coder) == path.read_bytes()


def test_there_is_no_other_file():
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.mtq")} == {*FILES, make.LOSSLESS}


def test_the_difference_makes_the_network_of_its_base():
    difference = read_model(Reader((FOLDER / "differences" / "task.mtq").read_bytes(), takes_differences=True))
    base = make.base()
    made = metaq.apply_difference(difference, base)
    assert list(made) == [*base, "new"]
    assert metaq.checksum(made) == "678ca7643dcb43713b0f5c40f1debc6b67bf051d8b270ad67782bf4022c8e33e"
    assert made["same"] is base["same"]
    assert made["tied.weight"] is made["head.weight"]


def test_the_difference_without_loss():
    data, new = (FOLDER / make.LOSSLESS).read_bytes(), make.lossless_new()
    assert make.lossless_file() == data
    made = metaq.apply(make.lossless_base(), data)
    assert set(made) == set(new)
    assert metaq.checksum(made) == metaq.checksum(new)
    assert made["decoder.weight"] is made["classifier.weight"]
    reader = Reader(data, takes_differences=True)
    entries = {entry.name: entry for entry in reader.header.tensors}
    assert entries["after"].change.source == "before"
    assert {name for name, entry in entries.items() if entry.is_removed} == {"gone", "before"}
    assert sum(entry.change is not None for entry in entries.values()) > 9


def test_the_update_log():
    data = (FOLDER / make.LOG).read_bytes()
    assert make.log_file() == data
    with metaq.DeltaReader(FOLDER / make.LOG) as log:
        assert log.steps == [0, 100, 200]
        for step, state in zip(log.steps, make.log_steps(), strict=True):
            assert metaq.checksum(log.read(step)) == metaq.checksum(state)
        assert log.metadata(100) == {"place": "1"}
        assert log.payload(200)[3:4] == b"\x01"


def test_tied_tensors_stay_tied():
    decoded = load_tensors(Reader((FOLDER / "network-mixing.mtq").read_bytes()))
    assert decoded["decoder.weight"] is decoded["classifier.weight"]


def test_some_values_as_numbers():
    network = load_tensors(Reader((FOLDER / "network-mixing.mtq").read_bytes()))
    assert network["features.1.num_batches_tracked"].item() == 960
    assert network["classifier.weight"].dtype == torch.bfloat16
    assert set(network["features.0.weight"].unique().tolist()) <= {0.03125 * q for q in range(-5, 6)}
    limits = load_tensors(Reader((FOLDER / "every-dtype.mtq").read_bytes()))["limits"]
    assert limits.tolist() == [1 - 2**30, 0, 2**30 - 1]
