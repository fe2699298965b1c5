"""`Limits`: files that are larger than who reads them wants are refused, before they cost anything."""

import time

import malformed_files as malformed
import numpy as np
import pytest

import metaq
import metaq.numpy
from metaq import Limits
from metaq.errors import InputError, nearest_name
from metaq.format.header import varint

ARRAYS = {"a": np.zeros((100, 10), np.float32), "b": np.arange(3)}
BYTES = 4024


@pytest.fixture
def path(tmp_path):
    metaq.numpy.save_file(ARRAYS, tmp_path / "file.mtq")
    return tmp_path / "file.mtq"


READERS = {
    "load_file": lambda path, limits: metaq.load_file(path, limits=limits),
    "safe_open": lambda path, limits: metaq.safe_open(path, limits=limits).close(),
    "numpy.load": lambda path, limits: metaq.numpy.load(path.read_bytes(), limits),
    "numpy.load of memory": lambda path, limits: metaq.numpy.load(memoryview(bytearray(path.read_bytes())), limits),
    "numpy.load_file": lambda path, limits: metaq.numpy.load_file(path, limits=limits),
    "numpy.safe_open": lambda path, limits: metaq.numpy.safe_open(path, limits=limits).close(),
}


@pytest.mark.parametrize("reader", READERS)
def test_files_beyond_them_are_refused(reader, path):
    READERS[reader](path, None)
    READERS[reader](path, Limits(header_bytes=100, decoded_bytes=BYTES))
    with pytest.raises(InputError, match=f"at most {BYTES - 1} decoded bytes, found {BYTES}"):
        READERS[reader](path, Limits(decoded_bytes=BYTES - 1))
    with pytest.raises(InputError, match="at most 10 header bytes, found"):
        READERS[reader](path, Limits(header_bytes=10))


def test_a_small_file_that_would_be_large_is_refused_at_once(tmp_path):
    payload = metaq.coding.by_name("mixing").encode([np.ones((1 << 22, 1, 1), np.int32)])
    tensors = [malformed.tensor(b"%d" % i, rest=malformed.shape(1 << 22) + malformed.STEP) for i in range(200)]
    path = tmp_path / "large.mtq"
    path.write_bytes(malformed.file(tuple(tensors), ((3, 1 << 22, payload),) * 199 + ((3, 0, payload),)))
    assert path.stat().st_size < 20_000
    started = time.process_time()
    with pytest.raises(InputError, match=f"at most {1 << 30} decoded bytes, found {200 << 24}"):
        metaq.load_file(path, limits=Limits(decoded_bytes=1 << 30))
    assert time.process_time() - started < 1


def test_a_shared_tensor_counts_once(tmp_path):
    aliases = [malformed.tensor(b"%d" % i, kind=malformed.ALIAS, rest=b"\0") for i in range(9)]
    data = malformed.file((malformed.tensor(), *aliases))
    assert len(metaq.numpy.load(data, Limits(decoded_bytes=24))) == 10


def test_a_changed_tensor_counts_as_its_result(tmp_path):
    path = tmp_path / "change.mtq"
    path.write_bytes(malformed.GOOD_CHANGE)
    with pytest.raises(InputError, match="at most 23 decoded bytes, found 24"):
        metaq.load_into(metaq_model(), path, limits=Limits(decoded_bytes=23))


def metaq_model():
    from torch import nn

    return nn.Linear(3, 2)


@pytest.mark.parametrize("bad", [{"header_bytes": 0}, {"header_bytes": 2**26 + 1}, {"decoded_bytes": -1}])
@pytest.mark.parametrize("kind", [int, float, str])
def test_bad_limits(bad, kind):
    with pytest.raises(InputError, match="Limits: expected"):
        Limits(**{name: kind(value) for name, value in bad.items()})


def test_a_text_code_longer_than_any_encoder_writes_is_not_read():
    data = b"MTQ\1" + varint(4) + varint(1 << 20) + bytes((1 << 20) + 4)
    with pytest.raises(metaq.FormatError, match="a text-coded header, found it corrupt"):
        metaq.numpy.load(data)


def test_names_that_might_have_been_meant_are_found_among_very_many():
    names = [f"model.layers.{i // 128}.mlp.experts.{i % 128}.weight" for i in range(1 << 14)]
    started = time.process_time()
    assert nearest_name("model.layers.7.mlp.experts.9.weigt", names) == f"; did you mean {names[7 * 128 + 9]!r}?"
    assert nearest_name("x" * 100_000, ["x" * 90_000]) == ""
    assert time.process_time() - started < 5
