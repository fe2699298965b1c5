"""Files written whole or not at all."""

import errno
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


def syncing(monkeypatch, code):
    """Has syncing of folders fail, with this error or, where it is None, not at all; and lists what is synced."""
    synced, sync = [], os.fsync

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(path)
        if code is not None and os.path.isdir(path):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


def test_a_folder_is_synced_once_a_file_has_its_name(tmp_path, monkeypatch):
    synced, replace = syncing(monkeypatch, None), os.replace
    monkeypatch.setattr(os, "replace", lambda *places: (synced.append("renamed"), replace(*places)))
    (tmp_path / "link").symlink_to("folder/x.mtq")
    (tmp_path / "folder").mkdir()
    write_atomically(tmp_path / "link", b"new")
    assert os.path.dirname(synced[0]) == str(tmp_path / "folder")
    assert synced[1:] == ["renamed", str(tmp_path / "folder")]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_file_systems_that_sync_no_folders(tmp_path, monkeypatch, code):
    synced = syncing(monkeypatch, code)
    write_atomically(tmp_path / "x.mtq", b"new")
    assert synced[-1] == str(tmp_path)
    assert (tmp_path / "x.mtq").read_bytes() == b"new"


def test_a_folder_that_may_not_be_read_is_not_synced(tmp_path, monkeypatch):
    opened = os.open

    def refuse_folders(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse_folders)
    write_atomically(tmp_path / "x.mtq", b"new")
    assert (tmp_path / "x.mtq").read_bytes() == b"new"


def test_a_folder_that_fails_to_be_synced_is_told(tmp_path, monkeypatch):
    syncing(monkeypatch, errno.EIO)
    with pytest.raises(InputError, match=r"x.mtq: expected a writable place, found Input/output error"):
        write_atomically(tmp_path / "x.mtq", b"new")
    assert folder_names(tmp_path) == ["x.mtq"]
