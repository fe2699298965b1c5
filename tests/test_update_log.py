"""Update logs: what comes back from any step, what a kill or a cut leaves, what is refused."""

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metaq
import metaq.numpy
from metaq.errors import FormatError, InputError, MetaqError
from metaq.format import log_file


def states(count, size=40):
    """Steps of a bfloat16 matrix with a tied name, a norm that is frozen, and a counter; the last has a tensor more."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.02 * torch.randn(size, size, generator=generator)).bfloat16()
    for step in range(count):
        state = {"weight": weight, "norm": torch.ones(size), "steps": torch.tensor(step), "tied": weight}
        yield state | ({"new": torch.randn(3, generator=generator)} if step == count - 1 else {})
        noise = 1e-5 * torch.randn(size, size, generator=generator)
        weight = (weight.float() + noise).bfloat16()


def assert_same(found, expected):
    assert set(found) == set(expected)
    assert metaq.checksum(found) == metaq.checksum(expected)


@pytest.fixture(scope="module")
def written():
    """A log in memory of seven steps with two keyframes, and the states."""
    made, file = list(states(7)), io.BytesIO()
    with metaq.DeltaWriter(file, keyframe_every=4) as log:
        for place, state in enumerate(made):
            log.append(state, 10 * place, {"place": str(place)})
    return file.getvalue(), made


def test_every_step_is_read(written):
    data, made = written
    log = metaq.DeltaReader(io.BytesIO(data))
    assert log.steps == [0, 10, 20, 30, 40, 50, 60]
    for step, state in zip(log.steps, made, strict=True):
        assert_same(log.read(step), state)
        assert log.metadata(step) == {"place": str(step // 10)}
    found = log.read()
    assert_same(found, made[-1])
    assert found["tied"] is found["weight"]
    for (step, state), expected in zip(log.read_from(20), made[2:], strict=True):
        assert_same(state, expected)
        state["weight"][:] = step  # which the next step is not made of


def test_payloads_are_networks_and_differences(written):
    data, made = written
    log = metaq.DeltaReader(io.BytesIO(data))
    assert_same(metaq.apply(made[1], log.payload(20)), made[2])
    assert metaq.numpy.load(log.payload(40)).keys() == made[4].keys()
    sizes = [len(log.payload(step)) for step in log.steps]
    assert sizes[1] < sizes[0] / 5


def test_another_writer_goes_on(tmp_path):
    path, made = tmp_path / "run.mtql", list(states(5))
    for part in (made[:2], made[2:3], made[3:]):
        with metaq.DeltaWriter(path) as log:
            for state in part:
                assert log.append(state) > 0
    with metaq.DeltaReader(path) as log:
        assert log.steps == [0, 1, 2, 3, 4]
        assert_same(log.read(), made[4])
        assert_same(log.read(0), made[0])
    assert path.stat().st_size < 5000


def test_a_reader_follows(tmp_path):
    path, made = tmp_path / "run.mtql", list(states(3))
    with metaq.DeltaWriter(path) as writer, metaq.DeltaReader(path) as reader:
        assert reader.steps == []
        with pytest.raises(InputError, match=r"run.mtql: expected a step, found none yet"):
            reader.read()
        for count, state in enumerate(made, 1):
            writer.append(state)
            assert len(reader.steps) == count
            assert_same(reader.read(), state)


def test_old_steps_are_dropped(tmp_path):
    path, made = tmp_path / "run.mtql", list(states(7))
    with metaq.DeltaWriter(path, keyframe_every=4) as log:
        for state in made[:6]:
            log.append(state, metadata={"is": "kept"})
        before = path.stat().st_size
        for step, left in ((0, 6), (2, 4), (4, 2)):  # of which 2 becomes a keyframe and 4 is one
            log.drop(before=step)
            assert log.steps == list(range(6 - left, 6))
            with metaq.DeltaReader(path) as reader:
                for place in log.steps:
                    assert_same(reader.read(place), made[place])
                    assert reader.metadata(place) == {"is": "kept"}
        with pytest.raises(InputError, match="expected a step of 6 or more to keep, found none"):
            log.drop(before=6)
        log.append(made[6])
    assert path.stat().st_size < before
    assert_same(metaq.DeltaReader(io.BytesIO(path.read_bytes())).read(), made[6])
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.mtql"]
    with pytest.raises(InputError, match="expected a log at a path"):
        metaq.DeltaWriter(io.BytesIO(path.read_bytes())).drop(before=6)


def test_cut_at_every_byte(written):
    """All whole steps are there, and a writer goes on behind them."""
    data, made = written
    ends = [record.start + record.size_bytes + 1 for record in metaq.DeltaReader(io.BytesIO(data))._log.records]
    for size in range(len(data) + 1):
        count = sum(end <= size for end in ends)
        assert len(metaq.DeltaReader(io.BytesIO(data[:size])).steps) == count
    for size in (0, 3, *(end + offset for end in ends[:3] for offset in (-1, 0, 1, 30))):
        file, count = io.BytesIO(data[:size]), sum(end <= size for end in ends)
        with metaq.DeltaWriter(file) as log:
            log.append(made[count])
        reader = metaq.DeltaReader(file)
        assert len(reader.steps) == count + 1
        for place, step in enumerate(reader.steps):
            assert_same(reader.read(step), made[place])


def test_damage_is_found(written):
    data, made = written
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(data) - 1, 60):
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.integers(0, 8)
        with pytest.raises((FormatError, InputError)):  # noqa: PT012 - where it is found is open
            log = metaq.DeltaReader(io.BytesIO(damaged))
            assert len(log.steps) == len(made)
            for _ in log.read_from(0):
                pass


HEAD_BYTES = 24  # before its checksum


@st.composite
def damages(draw):
    """Bytes of heads, with checksums that match; bytes anywhere that become fewer, others or more; the log's end."""
    in_heads = st.tuples(st.integers(0, 6), st.integers(0, HEAD_BYTES - 1), st.integers(0, 255))
    anywhere = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40))
    return draw(st.lists(in_heads, max_size=3)), draw(st.lists(anywhere, max_size=2)), draw(st.floats(0.5, 1.1))


def damaged(data, damage):
    in_heads, anywhere, end = damage
    heads = [found.start - HEAD_BYTES - 4 for found in metaq.DeltaReader(io.BytesIO(data))._log.records]
    data = bytearray(data)
    for place, offset, byte in in_heads:
        head = heads[place]
        data[head + offset] = byte
        checksum = zlib.crc32(data[head : head + HEAD_BYTES])
        data[head + HEAD_BYTES : head + HEAD_BYTES + 4] = checksum.to_bytes(4, "little")
    for share, size, others in anywhere:
        first = int(share * len(data))
        data[first : first + size] = others
    return bytes(data[: int(end * len(data))])


@contextmanager
def may_be_refused():
    message = ""
    try:
        yield
    except MetaqError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=120, deadline=None)
@given(damages())
def test_any_damage_is_an_error_in_one_line(written, damage):
    """What is read of a damaged log is a network that was written; so is what another writer appends to it."""
    data, made = written
    known, data = {metaq.checksum(state) for state in made}, damaged(data, damage)
    with may_be_refused():
        reader = metaq.DeltaReader(io.BytesIO(data))
        for step in reader.steps:
            reader.metadata(step)
            reader.payload(step)
        for _, state in reader.read_from(reader.steps[0]) if reader.steps else ():
            assert metaq.checksum(state) in known
    file = io.BytesIO(data)
    with may_be_refused(), metaq.DeltaWriter(file) as log:
        log.append(made[3])
        assert_same(metaq.DeltaReader(file).read(), made[3])


def record(kind=0, step=0, payload=b"", magic=b"STEP", reserved=b"\0\0\0", end=b"\1"):
    """A record as docs/format.md has it, or nearly so."""
    head = magic + bytes([kind]) + reserved + struct.pack("<QQ", step, len(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload + end


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MTQL\x02", r"expected an update log, which starts with b'MTQL\\x01', found b'MTQL\\x02'; a newer metaq may"),
        (b"MTQL\x01" + record(magic=b"step"), "byte 5: expected a step's head that matches its checksum"),
        (b"MTQL\x01" + record()[:20] + b"\1" + record()[21:], "byte 5: expected a step's head that matches"),
        (b"MTQL\x01" + record(kind=1), "byte 5: expected a keyframe, found kind 1"),
        (b"MTQL\x01" + record() + record(kind=2, step=1), r"byte 34: .* or a difference, found kind 2; a newer metaq"),
        (b"MTQL\x01" + record(reserved=b"\0\1\0"), "byte 5: expected three .* of 0, found another; a newer metaq"),
        (b"MTQL\x01" + record(step=3) + record(step=3), "byte 34: expected a step above 3, found 3"),
        (b"MTQL\x01" + record(step=7, end=b"\0"), r"step 7: expected b'\\x01' at its end, found b'\\x00'"),
    ],
)
def test_what_is_no_log(data, message):
    for size in range(len(data) + 1, len(data) + 30, 7):  # what follows does not matter
        with pytest.raises(FormatError, match=message):
            metaq.DeltaReader(io.BytesIO(data.ljust(size, b"S")))


def test_payloads_of_the_other_kind(written):
    payloads = [metaq.DeltaReader(io.BytesIO(written[0])).payload(step) for step in (0, 10)]
    log = metaq.DeltaReader(io.BytesIO(b"MTQL\x01" + record(payload=payloads[1])))
    with pytest.raises(InputError, match="update log, step 0: expected a whole model, found a difference"):
        log.read()
    log = metaq.DeltaReader(io.BytesIO(b"MTQL\x01" + record(payload=payloads[0]) + record(1, 1, payloads[0])))
    with pytest.raises(InputError, match="update log, step 1: expected a difference, found a whole model"):
        log.read()
    assert_same(log.read(0), written[1][0])


WRITER = """
import sys, numpy, metaq.numpy
with metaq.numpy.DeltaWriter(sys.argv[1], keyframe_every=3) as log:
    while True:
        step = log.steps[-1] + 1 if log.steps else 0
        log.append({"w": numpy.full((50, 50), step), "b": numpy.arange(9.0) + step})
        print(step, flush=True)
"""


def test_a_writer_is_killed_at_any_moment(tmp_path):
    """What it said is written is there; what it did not say is there whole or not at all."""
    path, generator = tmp_path / "run.mtql", np.random.default_rng()
    last = -1
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert int(process.stdout.readline()) == last + 1
        time.sleep(generator.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        said = [last + 1, *map(int, process.communicate()[0].split())]
        with metaq.DeltaReader(path) as log:
            last = log.steps[-1]
            assert log.steps == list(range(last + 1))
            assert last in (said[-1], said[-1] + 1)
            for step, state in log.read_from(0):
                assert (state["w"] == step).all()
    with metaq.DeltaWriter(path) as log:
        log.append({"w": torch.zeros(1)})


class Filling(io.BytesIO):
    """A file on a disk with little room."""

    room = 10**9

    def write(self, data):
        if self.tell() + len(data) > self.room:
            super().write(bytes(data)[: self.room - self.tell()])
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_the_disk_is_full():
    made, file = list(states(3)), Filling()
    file.room = 3
    with pytest.raises(InputError, match="disk full: update log: expected room for more bytes"):
        metaq.DeltaWriter(file)
    file.room = 10**9
    log = metaq.DeltaWriter(file)
    log.append(made[0])
    before = file.getvalue()
    for room in (10, 40, 300):
        file.room = len(before) + room
        with pytest.raises(InputError, match=r"disk full: update log: expected room for \d+ bytes"):
            log.append(made[1])
        assert file.getvalue() == before
    file.room = 10**9
    log.append(made[1])
    assert_same(metaq.DeltaReader(file).read(), made[1])


def test_what_is_refused(tmp_path):
    path = tmp_path / "run.mtql"
    state = {"w": torch.zeros(3)}
    with metaq.DeltaWriter(path) as log:
        with pytest.raises(InputError, match=r"run.mtql: expected no other writer of this log, found one"):
            metaq.DeltaWriter(path)
        log.append(state, 5)
        for step in (5, 4, -1, 2**64):
            with pytest.raises(InputError, match=f"expected a step from 6 to {2**64 - 1}, found {step}"):
                log.append(state, step)
        with pytest.raises(InputError, match="tensor 'w': expected one of"):
            log.append({"w": torch.zeros(3, dtype=torch.complex64)})
        assert log.steps == [5]
    with (
        metaq.DeltaReader(path) as reader,
        pytest.raises(InputError, match="expected step 4, found steps 5 to 5, 1 in all"),
    ):
        reader.read(4)
    with pytest.raises(InputError, match=r"none.mtql: expected a readable file, found No such file"):
        metaq.DeltaReader(tmp_path / "none.mtql")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        for opening in (metaq.DeltaReader, metaq.DeltaWriter):
            with pytest.raises(InputError, match=r"expected a (read|writ)able file, found a device or pipe"):
                opening(place)
    with metaq.DeltaWriter(tmp_path / "last.mtql") as log:
        log.append(state, 2**64 - 1)
        with pytest.raises(InputError, match=f"expected a step from {2**64} to {2**64 - 1}, found {2**64}"):
            log.append(state)
    with pytest.raises(InputError, match="keyframe_every: expected at least 1, found 0"):
        metaq.DeltaWriter(path, keyframe_every=0)
    with pytest.raises(FormatError, match="expected an update log, which starts with"):
        metaq.DeltaReader(io.BytesIO(b"MTQ\x01 is another kind"))
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(InputError, match="a path, or a file that is seekable"):
        metaq.DeltaReader(pipe)
    with path.open("rb") as file, pytest.raises(InputError, match="a file that is writable"):
        metaq.DeltaWriter(file)


def test_a_difference_from_another_network_is_refused(written):
    data, _ = written
    file = log_file.LogFile(io.BytesIO(), "mixed")
    for place in (0, 2):
        record = metaq.DeltaReader(io.BytesIO(data))._log.records[place]
        source = log_file.LogFile(io.BytesIO(data), "")
        file.append(record.step, record.is_keyframe, source.payload(record))
    with pytest.raises(
        InputError, match=r"log, step 20: expected the base [0-9a-f]+\.{3}, found [0-9a-f]+\.{3} in update log, step 0"
    ):
        metaq.DeltaReader(file.file).read()


def test_arrays_without_torch():
    made = [{"w": np.full(9, step, ml_dtypes.bfloat16), "n": np.arange(step)} for step in range(3)]
    file = io.BytesIO()
    with metaq.numpy.DeltaWriter(file) as log:
        for arrays in made:
            log.append(arrays)
    reader = metaq.numpy.DeltaReader(file)
    for step, arrays in reader.read_from(0):
        assert {name: (a.dtype, a.tobytes()) for name, a in arrays.items()} == {
            name: (a.dtype, a.tobytes()) for name, a in made[step].items()
        }


def test_names_of_logs_are_synced(tmp_path, monkeypatch):
    """A new log's; and one that steps are dropped of is the new file even where its folder cannot be synced then."""
    path, sync, is_broken = tmp_path / "x.mtql", os.fsync, False
    folders = []

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            folders.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            if is_broken:
                raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with metaq.DeltaWriter(path) as log:
        assert folders == [str(tmp_path)]
        for step in range(4):
            log.append({"w": torch.full((3, 4), float(step))})
        assert folders == [str(tmp_path)]
        is_broken = True
        with pytest.raises(InputError, match=r"x.mtql: expected a writable place, found Input/output error"):
            log.drop(before=2)
        log.append({"w": torch.full((3, 4), 4.0)})
    with metaq.DeltaReader(path) as log:
        assert log.steps == [2, 3, 4]
    with pytest.raises(InputError, match=r"y.mtql: expected a writable place, found Input/output error"):
        metaq.DeltaWriter(tmp_path / "y.mtql")


def test_a_log_has_one_writer_while_steps_are_dropped(tmp_path, monkeypatch):
    """Neither between the rename and the end, nor for one that had opened the log before."""
    path = tmp_path / "x.mtql"
    with metaq.DeltaWriter(path, keyframe_every=2) as log:
        for step in range(6):
            log.append({"w": torch.full((3, 4), float(step))})
        replace, before = os.replace, path.open("r+b")

        def meanwhile(*arguments):
            replace(*arguments)
            with pytest.raises(InputError, match="expected no other writer of this log, found one"):
                metaq.DeltaWriter(path)

        monkeypatch.setattr(os, "replace", meanwhile)
        log.drop(before=3)
        with pytest.raises(InputError, match="expected no other writer of this log, found one"):
            metaq.DeltaWriter(path)
        log.append({"w": torch.full((3, 4), 6.0)})
    opens = iter([before.fileno()])  # the first time, the file that had the name before
    opened = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: os.dup(next(opens, None) or opened(*arguments)))
    with metaq.DeltaWriter(path) as log:
        assert log.steps == [3, 4, 5, 6]
        assert next(opens, None) is None
    before.close()
