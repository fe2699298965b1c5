"""How far long work has come, for whoever shows it; `metaq.cli.bars` does."""

from __future__ import annotations


class Progress:
    """Is told of what is done; this base class shows nothing."""

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        """A pass over so many bytes begins, or work of unknown length."""

    def advance(self, read_bytes: int, written_bytes: int) -> None:
        """So many more bytes have been read, and so many written for them; may be called from several threads."""
