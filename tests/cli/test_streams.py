"""What reaches a terminal, and standard streams that are closed, full, or of another encoding."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import metaq
from metaq.cli import app, bars
from metaq.report.printable import one_line, printable

STEERING = "\x1b[31mred\x1b[0m\x07\x9b2J\u202eevil\u2066\u200b\r\x00"
SEEN = printable(STEERING)


def is_tame(text):
    return not set(STEERING) - set(SEEN) & set(text) and all(line.isprintable() for line in text.split("\n"))


def test_no_character_steers_a_terminal():
    assert SEEN.isprintable()
    assert one_line(f" a\n{STEERING}\tb ").isprintable()
    assert printable("ü [bold] 模型 é") == "ü [bold] 模型 é"
    assert printable("\udce9") == "\\udce9"


@pytest.fixture
def odd(tmp_path):
    """A checkpoint and a .mtq file in which all texts would steer a terminal, as would their names."""
    name = STEERING.replace("\x00", "")
    source, file = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.mtq"
    state = {STEERING: torch.randn(9, 9), "nan": torch.full((2, 2), float("nan"))}
    safetensors.torch.save_file(state, source, {STEERING: STEERING})
    metaq.save(metaq.compress({STEERING: state[STEERING]}, step=0.5), file)
    return source, file


def test_texts_of_files_steer_no_terminal(command, tmp_path, odd):
    """Whether all is well or not."""
    source, file = odd
    broken, index = tmp_path / "broken.safetensors", tmp_path / "folder" / "model.safetensors.index.json"
    broken.write_bytes(source.read_bytes().replace(b'"F32"', b'"\x1b32"'))
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": {"w": STEERING.replace("\x00", "") + ".safetensors"}}))
    torch.save({STEERING: {"a": torch.ones(2)}, "b": {"a": torch.ones(2)}}, tmp_path / "keys.pt")
    commands = [
        ["inspect", file],
        ["inspect", file, "--json"],
        ["verify", file],
        ["compare", source, file],
        ["compare", source, file, "--json"],
        ["compress", source, "-o", tmp_path / "again.mtq"],  # names the tensor with NaN
        ["compress", source, "-o", tmp_path / STEERING[:9] / "x.mtq"],
        ["compress", broken, "-o", tmp_path / "x.mtq"],
        ["compress", index.parent, "-o", tmp_path / "x"],
        ["compress", tmp_path / "keys.pt", "-o", tmp_path / "x.mtq"],
        ["verify", tmp_path / f"{STEERING[:9]}.mtq"],
        ["verify", tmp_path / f"{STEERING[:9]}.mtq", "--debug"],
        ["train", STEERING],
        [STEERING],
    ]
    for arguments in commands:
        _, output, errors = command(*arguments)
        assert is_tame(output), arguments
        assert is_tame(errors), arguments
        assert output or errors


def test_progress_bars_steer_no_terminal(monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with bars._bars((), quiet=False) as shown:
        shown.add_task(f"comparing {STEERING}")
        console = Console(record=True, width=200)
        console.print(shown.get_renderable())
    assert SEEN in console.export_text()


SHELL = """
metaq() { "$PYTHON" -m metaq "$@"; }
metaq --version > /dev/full; echo $?
metaq --version >&-; echo $?
metaq --version 2>&- <&-; echo $?
metaq recipes > /dev/full; echo $?
metaq recipes --json | true; echo ${PIPESTATUS[0]}
metaq nothing 2> /dev/full; echo $?
metaq nothing 2>&-; echo $?
PYTHONIOENCODING=ascii metaq recipes | tail -1 | wc -l
"""


def test_streams_that_are_closed_or_full():
    """Each is a failure that is told, where it can be, in one line; and no descriptor becomes that of a file."""
    finished = subprocess.run(
        ["bash", "-c", SHELL],
        capture_output=True,
        text=True,
        env={**app.os.environ, "PYTHON": sys.executable},
        check=False,
    )
    version = f"metaq {metaq.__version__}"
    assert finished.stdout.split("\n") == ["2", "2", version, "0", "2", "1", "2", "2", "1", ""]
    expected = "metaq: standard output: expected a file that can be used, found "
    full, closed = f"{expected}No space left on device", f"{expected}Bad file descriptor"
    assert finished.stderr.splitlines() == [full, closed, full]
