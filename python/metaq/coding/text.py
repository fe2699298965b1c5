"""Text like that of a file's header: context mixing primed with typical headers (docs/format.md, "Header")."""

from metaq import _native
from metaq.errors import FormatError

# A code of T bytes stands for no more than this times T + 8, so a small file cannot ask for unbounded memory.
TEXT_BYTES_PER_BYTE = 1 << 12


def encode(text: bytes) -> bytes:
    """The code of some bytes; their number is not part of it."""
    return _native.text_encode(text)


def decode(code: bytes | memoryview, size_bytes: int) -> bytes:
    """Inverse of `encode`.

    Raises:
        FormatError: no encoder writes this code for so many bytes.
    """
    most = TEXT_BYTES_PER_BYTE * (len(code) + 8)
    if size_bytes > most:
        raise FormatError(f"text: expected at most {most} bytes from a code of {len(code)}, found {size_bytes}")
    try:
        return _native.text_decode(code, size_bytes)
    except ValueError as error:
        raise FormatError(f"text: expected a code as an encoder writes it, found a {error} one") from None
