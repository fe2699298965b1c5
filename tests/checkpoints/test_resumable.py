"""A folder of parts, some of which other processes do."""

import os
import pickle

import pytest

from metaq.checkpoints.resumable import LOCK, STATE, WorkFolder, locked, put_back, work_folder
from metaq.errors import InputError

OPTIONS = {"bits": 3.0, "keep": ("a*",)}


def write(folder, part, key, **result):
    (folder.path / part).write_bytes(part.encode())
    folder.record(part, key, result)


@pytest.fixture
def stopped(tmp_path):
    """A folder with two parts, one of which another process did."""
    folder = WorkFolder(tmp_path / "out", OPTIONS, resumes=False)
    write(folder, "a.mtq", "0.5", bits=7.0)
    write(folder, "a.mtq", "0.25", bits=9.0)
    write(pickle.loads(pickle.dumps(folder)), "b.mtq", "0.25", bits=8.0)
    folder.close()
    return work_folder(tmp_path / "out")


def test_what_any_process_did_is_known_to_all_and_to_the_next_run(stopped, tmp_path):
    folder = WorkFolder(tmp_path / "out", OPTIONS, resumes=True)
    assert folder.result("a.mtq", "0.5", ["bits"]) == {"bits": 7.0}
    assert folder.result("b.mtq", "0.25", ["bits"]) == {"bits": 8.0}
    assert folder.result("b.mtq", "0.5", ["bits"]) is folder.result("c.mtq", "0.25", ["bits"]) is None
    assert folder.is_written("a.mtq", "0.25")
    assert not folder.is_written("a.mtq", "0.5")
    (stopped / "files" / "b.mtq").unlink()
    assert not folder.is_written("b.mtq", "0.25")


def test_without_resuming_all_is_forgotten(stopped, tmp_path):
    folder = WorkFolder(tmp_path / "out", OPTIONS, resumes=False)
    assert folder.result("a.mtq", "0.25", ["bits"]) is None
    assert {path.relative_to(stopped).as_posix() for path in stopped.rglob("*")} == {STATE, "files"}
    folder.close()
    assert not stopped.exists()


def test_notes_stay_behind_in_no_output(stopped, tmp_path):
    WorkFolder(tmp_path / "out", OPTIONS, resumes=True).publish_all({})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mtq", "b.mtq"]
    assert not stopped.exists()


def test_folders_are_synced_before_and_after_they_get_their_name(stopped, tmp_path, monkeypatch):
    """So that after a loss of power all of the output is there under its name, and not some of it."""
    events, sync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda place: (events.append(os.readlink(f"/proc/self/fd/{place}")), sync(place)))
    monkeypatch.setattr(os, "rename", lambda *places: (events.append("renamed"), rename(*places)))
    folder = WorkFolder(tmp_path / "out", OPTIONS, resumes=True)
    (folder.path / "sub").mkdir()
    folder.publish_all({})
    files = stopped / "files"
    assert events[-4:] == [str(files), str(files / "sub"), "renamed", str(tmp_path)]


NOTES = (
    *("{", "[]", "{}", "[" * 5000, '{"results": [], "written": null}', '{"results": {}, "written": 1}'),
    *('{"results": {"0.25": [9.0]}, "written": null}', '{"results": {"0.25": {}}, "written": null}'),
    *('{"results": {"0.25": {"bits": NaN}}, "written": null}', '{"results": {"0.25": {"bits": "9"}}, "written": null}'),
)


@pytest.mark.parametrize("text", NOTES)
def test_a_note_that_is_none_is_refused(stopped, tmp_path, text):
    place = next(stopped.glob("metaq-state-a*"))
    place.write_text(text)
    with pytest.raises(InputError, match=rf"{place.name}: expected what a stopped run left, found something else"):
        WorkFolder(tmp_path / "out", OPTIONS, resumes=True).result("a.mtq", "0.25", ["bits"])


def test_one_run_at_a_time(tmp_path):
    output = tmp_path / "out"
    with locked(output):
        folder = WorkFolder(output, OPTIONS, resumes=False)
        write(folder, "a.mtq", "0.5", bits=7.0)
        expected = "out: expected no other run that writes it, found one that is at work"
        with pytest.raises(InputError, match=expected), locked(output):
            pass
        assert (folder.path / "a.mtq").exists()
    with locked(output):
        assert WorkFolder(output, OPTIONS, resumes=True).is_written("a.mtq", "0.5")


def test_what_a_link_leads_to_is_written(tmp_path):
    """The link stays, to a folder as to a file."""
    for name in ("folder", "file"):
        link, target = tmp_path / "link" / name, tmp_path / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        if name == "folder":
            target.mkdir()
        folder = WorkFolder(link, OPTIONS, resumes=False)
        assert folder.path.parent == tmp_path / f"{name}.partial"
        write(folder, "a.mtq", "0.5")
        if name == "folder":
            folder.publish_all({})
        else:
            folder.publish("a.mtq", {})
        assert link.is_symlink()
        assert (target / "a.mtq" if name == "folder" else target).read_bytes() == b"a.mtq"
        assert not work_folder(link).exists()


def test_what_was_moved_away_comes_back(stopped, tmp_path):
    (stopped / LOCK).touch()
    (stopped / "replaced").mkdir()
    (stopped / "replaced" / "old").touch()
    put_back(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert not (stopped / "replaced").exists()
