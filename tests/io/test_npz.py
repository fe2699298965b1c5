"""`.npz` files of strangers: what an archive says of its members is held against the bytes that it has."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from metaq.errors import InputError
from metaq.io import read_state

HUGE = 1 << 34


def archive(compression, said_bytes):
    """A member of a few bytes whose array is said to have more, by its header and by the archive's directory."""
    data = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (said_bytes,)})
    with zipfile.ZipFile(data, "w", compression) as written:
        written.writestr("a.npy", header.getvalue() + bytes(1000))
        written.infolist()[0].file_size = said_bytes + len(header.getvalue())  # as the directory at the end has it
    return data.getvalue()


@pytest.fixture
def refusal(tmp_path):
    """Reads bytes that are refused before much memory is reserved; returns in what words."""

    def read(data):
        (tmp_path / "x.npz").write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(InputError) as failure:
                read_state(tmp_path / "x.npz")
            assert tracemalloc.get_traced_memory()[1] < 1 << 24
        finally:
            tracemalloc.stop()
        assert "\n" not in str(failure.value)
        return str(failure.value).partition("found something else ")[2]

    return read


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_larger_than_their_members(refusal, compression):
    assert refusal(archive(compression, HUGE)) == "(an array that is larger than its place in the archive)"


def test_members_that_the_file_has_no_bytes_for(refusal):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as written:
        written.writestr("a.npy", bytes(200))
        written.infolist()[0].compress_size = written.infolist()[0].file_size = HUGE
    assert refusal(data.getvalue()) == "(an archive that says it has more bytes than the file)"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_compressed_otherwise(refusal, compression):
    assert refusal(archive(compression, HUGE)) == "(an array that is compressed otherwise than by deflate)"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_are_compressed_as_far_as_can_be(tmp_path, save):
    save(tmp_path / "x.npz", zeros=np.zeros(1 << 22, np.float32), none=np.zeros((0, 3)))
    found, _ = read_state(tmp_path / "x.npz")
    assert torch.equal(found["zeros"], torch.zeros(1 << 22))
    assert found["none"].shape == (0, 3)
