"""Files of every release are read as they were meant: `expected.json` of each folder says how.

Python and the reference decoder read them here, the C++ program in tests/native/test_decoder.py. tests/golden is about
what today's encoders write, and changes with them; a folder here never changes.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import reference_decoder as reference

import metaq
from metaq import coding
from metaq.format.header import CODED, REMOVED
from metaq.format.reader import Reader

FOLDER = Path(__file__).parent
RELEASES = sorted(path for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__")
EXPECTED = {
    (folder, name): expected
    for folder in RELEASES
    for name, expected in json.loads((folder / "expected.json").read_text(encoding="utf-8")).items()
}


def cases(is_of_kind):
    chosen = {place: expected for place, expected in EXPECTED.items() if is_of_kind(expected)}
    return pytest.mark.parametrize(
        ("path", "expected"),
        [(folder / name, expected) for (folder, name), expected in chosen.items()],
        ids=[f"{folder.name}/{name}" for folder, name in chosen],
    )


@cases(lambda expected: "names" in expected)
def test_whole_files(path, expected):
    state = metaq.load_file(path)
    assert list(state) == expected["names"]
    assert metaq.checksum(state) == expected["checksum"]
    assert Reader(path.read_bytes()).header.metadata == expected["metadata"]
    decoded = reference.decode(path.read_bytes())
    assert list(decoded) == expected["names"]
    assert reference.checksum(decoded).hex() == expected["checksum"]


@cases(lambda expected: "base" in expected)
def test_differences(path, expected):
    base = path.parents[1] / expected["base"]
    assert metaq.checksum(metaq.apply(metaq.load_file(base), path)) == expected["checksum"]
    made = reference.apply(path.read_bytes(), reference.decode(base.read_bytes()))
    assert reference.checksum(made).hex() == expected["checksum"]


@cases(lambda expected: "steps" in expected)
def test_update_logs(path, expected):
    with metaq.DeltaReader(path) as log:
        assert list(map(str, log.steps)) == list(expected["steps"])
        for step, checksum in expected["steps"].items():
            assert metaq.checksum(log.read(int(step))) == checksum


@cases(lambda expected: not {"names", "base", "steps"} & set(expected))
def test_folders(path, expected):
    assert metaq.checksum(metaq.from_pretrained(path)) == expected["checksum"]


def test_every_file_is_expected():
    for folder in RELEASES:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.mtq*")}
        assert found == {name for place, name in EXPECTED if place == folder and ".mtq" in name}


def test_every_kind_codebook_and_coder_is_there():
    """A release that writes another one has a folder with it: `python tests/compatibility/make.py NAME`."""
    files = [Reader(path.read_bytes(), takes_differences=True) for path in FOLDER.rglob("*.mtq")]
    assert {chunk.coder for file in files for chunk in file.header.chunks} == {*coding.identifiers(), coding.DIFFERENCE}
    assert {row[2] for file in files for row in file.rows} == set(range(CODED, REMOVED + 1))
    codebooks = {type(entry.codebook).__name__ for file in files for entry in file.header.tensors if entry.codebook}
    assert codebooks == {"UniformCodebook", "TableCodebook", "IntegerCodebook"}


def test_no_folder_is_overwritten(monkeypatch):
    spec = importlib.util.spec_from_file_location("compatibility_make", FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr(make, "write", lambda folder: pytest.fail(f"{folder} is written"))
    for folder in RELEASES:
        monkeypatch.setattr("sys.argv", ["make.py", folder.name])
        with pytest.raises(SystemExit, match="expected a folder that is not there yet"):
            make.main()
