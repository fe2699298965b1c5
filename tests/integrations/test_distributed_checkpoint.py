"""`torch.distributed.checkpoint` in `.mtq` pieces: what comes back, on any number of ranks, and what is refused."""

import doctest
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from launcher import python_on
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

import metaq.integrations.distributed_checkpoint as module
from metaq.errors import InputError
from metaq.integrations import stream_extension
from metaq.integrations.distributed_checkpoint import MtqStorageReader, MtqStorageWriter

PROGRAM = Path(__file__).parent / "checkpoints_on_ranks.py"
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is:UserWarning", "ignore:Detected an existing checkpoint"
)
OTHER_DTYPES = [torch.complex64, torch.uint16, torch.float8_e4m3fnuz]


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def state():
    """Tensors of all kinds, some of dtypes that no `.mtq` file has, tied ones and objects."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 40, generator=generator)
    return {
        "model": {"weight": weight.bfloat16(), "bias": weight[0], "columns": weight[:, 3:9], "scalar": torch.tensor(3)},
        "tied": [weight, weight],
        "mask": weight > 0,
        "empty": torch.empty(0, 7),
        **{str(dtype): weight[:3].to(torch.float32).abs().to(dtype) for dtype in OTHER_DTYPES},
        "float8": weight.to(torch.float8_e4m3fn),
        "lr": 0.1,
        "name": "text",
    }


def blank(value):
    """The same shapes, all zeros."""
    if isinstance(value, torch.Tensor):
        return torch.zeros(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: blank(entry) for key, entry in value.items()}
    return [blank(entry) for entry in value] if isinstance(value, list) else None


def assert_same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.contiguous().view(-1).view(torch.uint8).equal(expected.contiguous().view(-1).view(torch.uint8))
    elif isinstance(expected, dict | list):
        assert len(found) == len(expected)
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_same(found[key], expected[key])
    else:
        assert found == expected


def save(saved, path, base=None):
    dcp.save(saved, storage_writer=MtqStorageWriter(path, base=base))


def load(like, path):
    found = blank(like)
    dcp.load(found, storage_reader=MtqStorageReader(path))
    return found


def size(path):
    return sum(file.stat().st_size for file in Path(path).glob("*.mtq"))


def test_there_and_back_whole_and_as_a_chain():
    one = state()
    save(one, "one")
    two = state()
    two["model"]["weight"] = (two["model"]["weight"].float() * 1.0001).bfloat16()
    two["name"] = "another"
    save(two, "two", base="one")
    three = two | {"new": torch.ones(9), "mask": ~two["mask"], "empty": torch.zeros(2)}
    dcp.async_save(three, storage_writer=MtqStorageWriter("three", base="two")).result()
    for expected, path in ((one, "one"), (two, "two"), (three, "three")):
        assert_same(load(expected, path), expected)
    assert size("two") < size("one") / 4


def test_another_folder_with_all_steps_is_as_good():
    save(state(), "run/one")
    save(state(), "run/two", base="run/one")
    shutil.move("run", "moved")
    assert_same(load(state(), "moved/two"), state())


def test_a_base_and_a_checkpoint_by_links():
    """The base is where the link led when it was written, and is found from wherever the checkpoint is linked."""
    save(state(), "run/one")
    Path("latest").symlink_to("run/one")
    save(state(), "run/two", base="latest")
    Path("latest").unlink()
    Path("latest").symlink_to("run/two")
    assert_same(load(state(), "latest"), state())
    assert_same(load(state(), "run/two"), state())


def test_files_are_of_some_size(monkeypatch):
    monkeypatch.setattr(module, "_FILE_BYTES", 5000)
    save(state(), "one")
    save(state(), "two", base="one")
    assert len([*Path("two").glob("*.mtq")]) > 2
    assert_same(load(state(), "two"), state())


def refused(action):
    with pytest.raises(CheckpointException) as caught:
        action()
    return str(caught.value.failures[0][0])


def test_what_is_refused_by_a_writer():
    save(state(), "one")
    dcp.save(state(), checkpoint_id="plain")
    assert "one: expected another place than the base" in refused(lambda: save(state(), "one", base="one"))
    expected = "none: expected a checkpoint's folder, found No such file"
    assert expected in refused(lambda: save(state(), "two", base="none"))
    expected = "plain: expected a checkpoint of MtqStorageWriter, found pieces as _StorageInfo"
    assert expected in refused(lambda: save(state(), "two", base="plain"))
    assert not (Path("two") / ".metadata").exists()


def test_what_is_refused_by_a_reader():
    save(state(), "one")
    save(state(), "two", base="one")
    other = state()
    other["model"]["weight"].view(torch.int16)[3, 3] ^= 1
    before = {path: path.read_bytes() for path in Path("one").iterdir()}
    save(other, "one")
    found = refused(lambda: load(state(), "two"))
    assert "two/__0_0.mtq: expected the base " in found
    assert "/one: other weights" in found
    shutil.rmtree("one")
    assert "one: expected a checkpoint's folder, found No such file" in refused(lambda: load(state(), "two"))
    Path("one").mkdir()
    for path, data in before.items():
        path.write_bytes(data)
    assert_same(load(state(), "two"), state())
    path = Path("two/__0_0.mtq")
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    assert "two/__0_0.mtq: expected chunk" in refused(lambda: load(state(), "two"))
    dcp.save(state(), checkpoint_id="plain")
    assert "plain: expected a checkpoint of MtqStorageWriter" in refused(lambda: load(state(), "plain"))


def test_the_stream_transform():
    extensions = {"_extensions": [stream_extension.MtqStream()]}
    dcp.save(state(), storage_writer=dcp.FileSystemWriter("one", **extensions))
    found = blank(state())
    dcp.load(found, storage_reader=dcp.FileSystemReader("one", _extension_registry=stream_extension.registry()))
    assert_same(found, state())
    assert "Unknown extension name='stream.mtq'" in refused(
        lambda: dcp.load(found, storage_reader=dcp.FileSystemReader("one"))
    )
    with pytest.raises(InputError, match=r"stream.mtq: expected version 1, found 2"):
        stream_extension.MtqStream.from_descriptor("2")


@pytest.mark.parametrize("documented", [module, stream_extension], ids=lambda module: module.__name__)
def test_the_examples_run(documented):
    found = doctest.testmod(documented, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 5
    assert found.failed == 0


def run(processes, *actions):
    command = [*python_on(processes), str(PROGRAM), ".", *actions]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_other_numbers_of_ranks():
    """Two save in shards of FSDP2, one and four load and go on, with differences from what two have saved."""
    run(2, "save:1", "save:2:1", "async:3:2", "check:3")
    assert size("2") < 0.8 * size("1")
    run(1, "check:1", "check:2", "check:3")
    run(4, "check:3", "save:4:3", "check:4")
    run(1, "check:4", "save:5:4", "check:5")
