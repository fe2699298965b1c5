"""What long work shows of itself: on a terminal, and nowhere else."""

import io
import os
import pty
import subprocess
import sys

import pytest

from metaq.cli import bars


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """A function that puts a terminal in the place of standard error; pytest puts its own there after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    def begin():
        monkeypatch.setattr(sys, "stderr", Screen())
        return sys.stderr

    return begin


def work():
    with bars.byte_bar() as bar:
        bar.begin("reading [x]", 4000)
        bar.advance(4000, 0)
        bar.begin("compressing", 8000)
        bar.advance(3000, 500)
        bar.advance(3000, 1000)
    with bars.step_bars() as advance:
        advance("training, float", 2, 5)
    with bars.spinner("thinking"):
        pass


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_nothing_where_there_is_no_terminal(capsys, monkeypatch, forced):
    for name, value in forced.items():
        monkeypatch.setenv(name, value)
    work()
    assert capsys.readouterr() == ("", "")


def test_bytes_ratio_steps_and_time_left(screen):
    terminal = screen()
    work()
    written = terminal.getvalue()
    assert "6.0/8.0 kB" in written
    assert "4.00x" in written
    assert "training, float" in written
    assert "2/5" in written
    assert "thinking" in written
    assert "0:00:0" in written or "-:--:--" in written


def test_quiet(screen):
    terminal = screen()
    with bars.byte_bar(quiet=True) as bar, bars.step_bars(quiet=True) as advance, bars.spinner("thinking", quiet=True):
        bar.begin("compressing", 8000)
        advance("training, float", 2, 5)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("options", "has_bar"), [([], True), (["-q"], False)])
def test_a_command_on_a_terminal(file, options, has_bar):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "metaq", "verify", str(file), *options]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    try:
        written = os.read(ours, 1 << 16)
    except OSError:  # nothing was written, and nobody can write any more
        written = b""
    os.close(ours)
    assert finished.returncode == 0
    assert (b"verifying" in written) == has_bar
