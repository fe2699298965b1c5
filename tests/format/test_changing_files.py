"""Files that others write to while they are read: what they were, what they are, or an error in one line."""

import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import metaq.numpy
from metaq import coding
from metaq.errors import FormatError
from metaq.format.checked_file import CheckedFile

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "a": np.rint(GENERATOR.normal(0, 2, (100, 200))).astype(np.int8),
    "b": GENERATOR.normal(size=(100, 70)).astype(np.float32),
}


@pytest.fixture(params=list(coding.coders))
def path(request, tmp_path):
    metaq.numpy.save_file(ARRAYS, tmp_path / "file.mtq", coder=request.param)
    return tmp_path / "file.mtq"


def tensors_of(file):
    return {name: file.get_tensor(name) for name in ARRAYS}


def is_whole(arrays):
    return all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())


def try_to_load(source):
    """Right or refused in one line."""
    try:
        arrays = metaq.numpy.load(source) if isinstance(source, memoryview) else metaq.numpy.load_file(source)
    except FormatError as error:
        if "\n" in str(error):
            raise
    else:
        assert is_whole(arrays)


def test_a_file_that_becomes_shorter(path):
    size = path.stat().st_size
    for left in (size - 1, size // 2, 300, 0):
        data = path.read_bytes()
        with metaq.numpy.safe_open(path) as file:
            os.truncate(path, left)
            with pytest.raises(FormatError, match=f"expected {size} bytes, as when it was opened, found {left};"):
                tensors_of(file)
        path.write_bytes(data)


def test_a_file_that_is_replaced_stays_what_it_was(path):
    with metaq.numpy.safe_open(path) as file:
        path.unlink()
        path.write_bytes(b"another file")
        assert is_whole(tensors_of(file))


WRITER = """
import os, random, sys
path, size = sys.argv[1], os.path.getsize(sys.argv[1])
original = open(path, "rb").read()
descriptor = os.open(path, os.O_RDWR)
print("begun", flush=True)
random.seed(1)
while True:
    if random.random() < 0.5:
        place = random.randrange(size)
        os.pwrite(descriptor, bytes([random.randrange(256)]), place)
    else:
        os.ftruncate(descriptor, random.randrange(size))
    os.pwrite(descriptor, original, 0)
"""


def test_a_file_that_another_process_writes_to(path):
    """Right or refused, never a crash: each byte is read once, and what is checked is what is used."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        for _ in range(30):
            try_to_load(path)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


@pytest.mark.parametrize("coder", coding.coders)
def test_memory_that_another_thread_writes_to(coder, tmp_path):
    data = bytearray(metaq.numpy.save(ARRAYS, coder=coder))
    original, stop = bytes(data), threading.Event()

    def write():
        places = np.random.default_rng(2).integers(0, len(data), 1000).tolist()
        while not stop.is_set():
            for place in places:
                data[place] ^= 255
                data[place] = original[place]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            try_to_load(memoryview(data))
    finally:
        stop.set()
        thread.join()


def test_a_map_and_memory_that_is_not_constant_are_copied_chunk_by_chunk(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        assert is_whole(metaq.numpy.load(view))
        view.release()
    file = CheckedFile(memoryview(bytearray(path.read_bytes())))
    file.check_payloads()
    assert file.size_bytes == path.stat().st_size
    assert file.read(1, 3) == path.read_bytes()[1:4]
