"""A folder of parts, some of which other processes do."""

import pickle

import pytest

from metaq.checkpoints.resumable import STATE, WorkFolder
from metaq.errors import InputError

OPTIONS = {"bits": 3.0, "keep": ("a*",)}


def write(folder, part, key, **result):
    (folder.path / part).write_bytes(part.encode())
    folder.record(part, key, result)


@pytest.fixture
def stopped(tmp_path):
    """A folder with two parts, one of which another process did."""
    folder = WorkFolder(tmp_path / "out.partial", OPTIONS, resumes=False)
    write(folder, "a.mtq", "0.5", bits=7.0)
    write(folder, "a.mtq", "0.25", bits=9.0)
    write(pickle.loads(pickle.dumps(folder)), "b.mtq", "0.25", bits=8.0)
    folder.close()
    return folder.path


def test_what_any_process_did_is_known_to_all_and_to_the_next_run(stopped):
    folder = WorkFolder(stopped, OPTIONS, resumes=True)
    assert folder.result("a.mtq", "0.5") == {"bits": 7.0}
    assert folder.result("b.mtq", "0.25") == {"bits": 8.0}
    assert folder.result("b.mtq", "0.5") is folder.result("c.mtq", "0.25") is None
    assert folder.is_written("a.mtq", "0.25")
    assert not folder.is_written("a.mtq", "0.5")
    (stopped / "b.mtq").unlink()
    assert not folder.is_written("b.mtq", "0.25")


def test_without_resuming_all_is_forgotten(stopped):
    folder = WorkFolder(stopped, OPTIONS, resumes=False)
    assert folder.result("a.mtq", "0.25") is None
    assert [path.name for path in stopped.iterdir()] == [STATE]
    folder.close()
    assert not stopped.exists()


def test_notes_stay_behind_in_no_output(stopped, tmp_path):
    WorkFolder(stopped, OPTIONS, resumes=True).publish_all(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mtq", "b.mtq"]
    assert not stopped.exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_note_that_is_none_is_refused(stopped, text):
    place = next(stopped.glob("metaq-state-a*"))
    place.write_text(text)
    with pytest.raises(InputError, match=rf"{place.name}: expected what a stopped run left, found something else"):
        WorkFolder(stopped, OPTIONS, resumes=True).result("a.mtq", "0.25")
