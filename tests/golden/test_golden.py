"""Golden files: what they hold, and that writing it again gives the same bytes. `make.py` writes them anew."""

import importlib.util
from pathlib import Path

import pytest
import torch

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
    reader = Reader(path.read_bytes(), path.name)
    decoded, expected = load_tensors(reader), model.decompress()
    assert list(decoded) == list(expected)
    assert digest(decoded) == digest(expected)
    assert reader.header.metadata == model.metadata
    assert digest(read_model(reader).decompress()) == digest(expected)


def test_it_encodes_to_the_same_bytes(golden):
    path, model, coder = golden
    assert compressed_model.encode(model, coder) == path.read_bytes()
    assert compressed_model.encode(read_model(Reader(path.read_bytes())), coder) == path.read_bytes()


def test_there_is_no_other_file():
    assert {path.name for path in FOLDER.glob("*.mtq")} == set(FILES)


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
