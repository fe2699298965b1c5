"""The face for C, metaq.h, called by ctypes, decodes what Python decodes and refuses what C++ refuses, in its words."""

import ctypes
import re
import shutil
import subprocess
import threading
from pathlib import Path

import malformed_files as malformed
import pytest

import metaq.numpy
from metaq import __version__

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
HEADER = (ROOT / "src" / "metaq" / "metaq.h").read_text(encoding="utf-8")
# Of files that open all the same, since what is wrong shows when a chunk is decoded.
FOUND_IN_CHUNKS = (
    "chunk_checksum",
    "unsupported_coder",
    "stream_truncated",
    "stream_corrupt",
    "symbol_range",
    "plane_range",
)
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.mtq"))
NOWHERE = 2**64 - 1
OF_OTHERS = ("gzip", "zstd", "lzma")
NATIVE = [path for path in GOLDEN if not any(coder in path.name for coder in OF_OTHERS)]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")


class Sized(ctypes.Structure):
    """A struct that begins with its size."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class Error(Sized):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("header_byte", ctypes.c_uint64),
        ("chunk", ctypes.c_uint64),
        ("tensor", ctypes.c_uint64),
        ("expected", ctypes.c_int64 * 2),
        ("found", ctypes.c_int64 * 2),
        ("what", ctypes.c_char_p),
        ("name_size", ctypes.c_size_t),
        ("name", ctypes.c_ubyte * 128),
    ]


class Tensor(Sized):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_size_t),
        ("dtype", ctypes.c_int),
        ("element_bytes", ctypes.c_uint32),
        ("dimensions", ctypes.c_size_t),
        ("shape", ctypes.POINTER(ctypes.c_uint64)),
        ("size", ctypes.c_uint64),
        ("size_bytes", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("row_bytes", ctypes.c_uint64),
        ("target", ctypes.c_size_t),
        ("begin_byte", ctypes.c_uint64),
        ("end_byte", ctypes.c_uint64),
    ]


READ = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)
READ_LATE = 2


class Reader(Sized):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("size", ctypes.c_uint64),
        ("read", READ),
        ("user", ctypes.c_void_p),
    ]


class Options(Sized):
    _fields_ = [("struct_size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("allocator", ctypes.c_void_p)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "libmetaq.so"
    flags = ["-std=c++20", "-O0", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
    subprocess.run([COMPILER, *flags, f"-I{ROOT / 'src'}", ROOT / "src/metaq/metaq.cpp", "-o", path], check=True)
    found = ctypes.CDLL(str(path))
    for name in ("status_name", "status_text", "dtype_name"):
        getattr(found, f"metaq_{name}").restype = ctypes.c_char_p
    found.metaq_tensor_count.restype = ctypes.c_size_t
    return found


class CFile:
    """A file that the library has opened, or the error that it gave."""

    def __init__(self, library, data):
        self.library, self.data = library, data
        self.handle, self.error = ctypes.c_void_p(), Error()
        data_size = ctypes.c_size_t(len(data))
        self.status = library.metaq_open_memory(
            data, data_size, None, ctypes.byref(self.handle), ctypes.byref(self.error)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.metaq_close(self.handle)

    def tensors(self):
        for index in range(self.library.metaq_tensor_count(self.handle)):
            tensor = Tensor()
            assert self.library.metaq_get_tensor(self.handle, ctypes.c_size_t(index), ctypes.byref(tensor)) == 0
            yield tensor

    def decode(self, index, size_bytes):
        out = ctypes.create_string_buffer(max(size_bytes, 1))
        self.status = self.library.metaq_decode(
            self.handle, ctypes.c_size_t(index), out, ctypes.c_size_t(size_bytes), ctypes.byref(self.error)
        )
        return out.raw[:size_bytes]


class LateFile(CFile):
    """As before, of a file whose chunks are read when they are decoded, as far as they have `arrived`."""

    def __init__(self, library, data, size=None, arrived=None):
        self.library, self.data, self.arrived = library, data, len(data) if arrived is None else arrived
        self.handle, self.error, self.read_bytes = ctypes.c_void_p(), Error(), []
        self.reader = Reader(size=len(data) if size is None else size, read=READ(self.read))
        self.status = library.metaq_open_reader(
            ctypes.byref(self.reader),
            ctypes.byref(Options(flags=READ_LATE)),
            ctypes.byref(self.handle),
            ctypes.byref(self.error),
        )

    def read(self, _user, offset, out, size):
        if offset + size > self.arrived:
            return 1
        self.read_bytes.append((offset, offset + size))
        ctypes.memmove(out, self.data[offset : offset + size], size)
        return 0


def parts_of(error):
    """All that an error of the library says, as Python's native module says it."""
    place = [None if at == NOWHERE else at for at in (error.header_byte, error.chunk, error.tensor)]
    numbers = (tuple(error.expected), tuple(error.found))
    return (*place, bytes(error.name)[: error.name_size], (error.what or b"").decode(), *numbers)


def test_the_header_has_the_numbers_of_the_library(library):
    version = "{MAJOR}.{MINOR}.{PATCH}".format(**dict(re.findall(r"METAQ_VERSION_(\w+) (\d+)\n", HEADER)))
    assert version == __version__
    major, minor, patch = map(int, version.split("."))
    assert library.metaq_version() == major * 1_000_000 + minor * 1000 + patch
    names = re.findall(r"^ {4}METAQ_(\w+) = (\d+),? *(?:/\*.*)?$", HEADER, flags=re.MULTILINE)
    first = names.index(("FLOAT32", "0"))
    statuses, dtypes = names[:first], names[first:]
    for name, number in statuses:
        assert library.metaq_status_name(int(number)).decode() == name.lower()
    assert library.metaq_status_name(len(statuses)) == b"unknown"
    assert len(dtypes) == 12
    for name, number in dtypes:
        assert library.metaq_dtype_name(int(number)).decode() == name.lower()
    assert library.metaq_dtype_name(6) is None


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_are_what_numpy_reads(path, library):
    with CFile(library, path.read_bytes()) as file:
        assert file.status == 0
        tensors = list(file.tensors())
        expected = metaq.numpy.load_file(path)
        assert [ctypes.string_at(tensor.name, tensor.name_size).decode() for tensor in tensors] == list(expected)
        for index, (tensor, array) in enumerate(zip(tensors, expected.values(), strict=True)):
            assert tuple(tensor.shape[i] for i in range(tensor.dimensions)) == array.shape
            elements = file.decode(index, tensor.size_bytes)
            if path not in NATIVE:
                assert library.metaq_status_name(file.status) in (b"ok", b"unsupported_coder")
                continue
            assert file.status == 0
            assert library.metaq_dtype_name(tensor.dtype).decode() == str(array.dtype)
            assert elements == array.tobytes()


@pytest.mark.parametrize("kind", [CFile, LateFile])
def test_malformed_files_have_the_status_and_the_place_of_cpp(library, kind):
    seen = set()
    for status, data in malformed.files():
        with kind(library, data) as file:
            for index, tensor in enumerate([] if file.status else file.tensors()):
                if not file.status:
                    file.decode(index, tensor.size_bytes)
            expected = malformed.first_error(data)
            assert library.metaq_status_name(file.error.status).decode() == expected.status == status
            assert library.metaq_status_text(file.error.status).decode() == expected.words
            places = (expected.header_byte, expected.chunk, expected.tensor, expected.name, expected.what)
            assert parts_of(file.error) == (*places, expected.expected, expected.found)
            assert bool(file.handle) == (status in FOUND_IN_CHUNKS)
        seen.add(status)
    assert len(seen) > 35


def test_a_reader_in_another_language(library):
    """A reader is a function of the caller's: here one of Python."""
    data = GOLDEN[0].read_bytes()

    def read(_user, offset, out, size):
        ctypes.memmove(out, data[offset : offset + size], size)
        return 0

    reader, handle = Reader(size=len(data), read=READ(read)), ctypes.c_void_p()
    assert library.metaq_open_reader(ctypes.byref(reader), None, ctypes.byref(handle), None) == 0
    assert library.metaq_tensor_count(handle) == len(metaq.numpy.load(data))
    library.metaq_close(handle)


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: path.name)
def test_files_that_are_read_late_read_of_each_tensor_its_bytes_alone(path, library):
    data = path.read_bytes()
    with LateFile(library, data) as file:
        header_end = max(end for _, end in file.read_bytes)
        for index, (tensor, array) in enumerate(zip(file.tensors(), metaq.numpy.load(data).values(), strict=True)):
            file.read_bytes.clear()
            assert file.decode(index, tensor.size_bytes) == array.tobytes()
            assert all(tensor.begin_byte <= first < end <= tensor.end_byte for first, end in file.read_bytes)
            if file.read_bytes:
                assert min(file.read_bytes)[0] == tensor.begin_byte
                assert max(end for _, end in file.read_bytes) == tensor.end_byte
        assert header_end < 300 + 2 * len(data)


def test_a_file_that_still_arrives(library):
    """Of its size nothing is known, and what has not come yet may be asked for again."""
    data = (ROOT / "tests" / "golden" / "network-mixing.mtq").read_bytes()
    expected = list(metaq.numpy.load(data).values())
    read_failed = library.metaq_status_name(54)
    with LateFile(library, data, NOWHERE, arrived=20) as file:
        assert not file.handle
        assert library.metaq_status_name(file.error.status) == read_failed == b"read_failed"
    with LateFile(library, data + b"what follows is not looked at yet", NOWHERE) as file:
        assert file.status == 0
        tensors = list(file.tensors())
        file.arrived = tensors[0].end_byte - 1
        file.decode(0, tensors[0].size_bytes)
        assert (file.status, file.error.status) == (54, 54)
        file.arrived += 1
        assert file.decode(0, tensors[0].size_bytes) == expected[0].tobytes()
    with LateFile(library, data, len(data) - 1) as file:
        assert library.metaq_status_name(file.status) == b"truncated"
    with LateFile(library, data + b"\0") as file:
        assert library.metaq_status_name(file.status) == b"bytes_left_over"


def test_threads_share_a_file(library):
    path = ROOT / "tests" / "golden" / "network-mixing.mtq"
    expected = [array.tobytes() for array in metaq.numpy.load_file(path).values()]
    found = [[] for _ in range(4)]
    with CFile(library, path.read_bytes()) as file:
        sizes = [tensor.size_bytes for tensor in file.tensors()]

        def decode(results):
            for index, size in enumerate(sizes):
                out = ctypes.create_string_buffer(max(size, 1))
                library.metaq_decode(file.handle, ctypes.c_size_t(index), out, ctypes.c_size_t(size), None)
                results.append(out.raw[:size])

        threads = [threading.Thread(target=decode, args=(results,)) for results in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 4
