"""What long work shows of itself."""

import io

from rich.console import Console

from metaq import progress


def test_nothing_where_there_is_no_terminal(capsys):
    with progress.shown() as bar:
        bar.begin("compressing", 100)
        bar.advance(50, 10)
    assert capsys.readouterr() == ("", "")


def test_bytes_ratio_and_time_left(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    with progress.shown() as bar:
        bar.begin("reading [x]", 4000)
        bar.advance(4000, 0)
        bar.begin("compressing", 8000)
        bar.advance(3000, 500)
        bar.advance(3000, 1000)
    shown = screen.getvalue()
    assert "6.0/8.0 kB" in shown
    assert "4.00x" in shown
    assert "0:00:0" in shown or "-:--:--" in shown
