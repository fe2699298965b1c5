"""Files written whole or not at all."""

import os

import pytest

from metaq.errors import InputError
from metaq.files import read_bytes, write_atomically


def folder_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_whole(tmp_path):
    path = tmp_path / ("n" * 240 + ".mtq")
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert folder_names(tmp_path) == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def unwritable(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    return {
        "directory": tmp_path,
        "missing parent": tmp_path / "none" / "x.mtq",
        "parent is a file": tmp_path / "file" / "x.mtq",
        "name too long": tmp_path / ("x" * 300),
        "device": "/dev/null",
        "pipe": tmp_path / "pipe",
        "empty": "",
    }[kind]


@pytest.mark.parametrize(
    "kind", ["directory", "missing parent", "parent is a file", "name too long", "device", "pipe", "empty"]
)
def test_unwritable(tmp_path, kind):
    path = unwritable(tmp_path, kind)
    before = folder_names(tmp_path)
    with pytest.raises(InputError, match=r"expected a (file to write|writable place), found"):
        write_atomically(path, b"x")
    assert folder_names(tmp_path) == before
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch, broken, error):
    path = tmp_path / "x.mtq"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises((InputError, KeyboardInterrupt), match=r"No space|^$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert folder_names(tmp_path) == ["x.mtq"]


def test_unreadable(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="expected a readable file, found"):
            read_bytes(path)
