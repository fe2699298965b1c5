"""Golden files: what they hold, and that writing it again gives the same bytes. `make.py` writes them anew."""

import importlib.util
from pathlib import Path

import pytest
import torch

from metaq.format import writer
from metaq.format.reader import Reader
from metaq.metrics import digest

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
    reader = Reader(path.read_bytes(), path.name)
    decoded, expected = reader.load(), model.decompress()
    assert list(decoded) == list(expected)
    assert digest(decoded) == digest(expected)
    assert reader.header.metadata == model.metadata
    assert digest(reader.model().decompress()) == digest(expected)


def test_it_encodes_to_the_same_bytes(golden):
    path, model, coder = golden
    assert writer.encode(model, coder) == path.read_bytes()
    assert writer.encode(Reader(path.read_bytes()).model(), coder) == path.read_bytes()


def test_there_is_no_other_file():
    assert {path.name for path in FOLDER.glob("*.mtq")} == set(FILES)


def test_tied_tensors_stay_tied():
    decoded = Reader((FOLDER / "network-mixing.mtq").read_bytes()).load()
    assert decoded["decoder.weight"] is decoded["classifier.weight"]


def test_some_values_as_numbers():
    network = Reader((FOLDER / "network-mixing.mtq").read_bytes()).load()
    assert network["features.1.num_batches_tracked"].item() == 960
    assert network["classifier.weight"].dtype == torch.bfloat16
    assert set(network["features.0.weight"].unique().tolist()) <= {0.03125 * q for q in range(-5, 6)}
    limits = Reader((FOLDER / "every-dtype.mtq").read_bytes()).load()["limits"]
    assert limits.tolist() == [1 - 2**30, 0, 2**30 - 1]
