"""Files as programs for small devices hold them: as bytes for `metaq/device.hpp`, or as an array of C."""

from __future__ import annotations

import re

BYTES_A_LINE = 16


def c_identifier(name: str) -> str:
    """A name with ``_`` in the place of what no identifier of C may have."""
    return re.sub(r"^(?=\d)|\W", "_", name, flags=re.ASCII)


def c_header(image: bytes, arena_bytes: int, name: str, more: str = "") -> str:
    """A header for C and C++ that defines an image, its size and the bytes of arena that decoding it takes.

    Args:
        image: what `CheckedFile.device_image` gives.
        arena_bytes: what it gives besides.
        name: what the array is called; what no identifier may have becomes ``_``.
        more: lines behind the array.

    Example:
        >>> print(c_header(b"MTD", 400, "net-1"))
        #ifndef NET_1_H
        #define NET_1_H
        #define NET_1_BYTES 3
        #define NET_1_ARENA_BYTES 400
        static const unsigned char net_1[] = {
            77, 84, 68,
        };
        #endif
        <BLANKLINE>
    """
    identifier = c_identifier(name)
    macro = identifier.upper()
    lines = [f"#ifndef {macro}_H", f"#define {macro}_H"]
    lines += [f"#define {macro}_BYTES {len(image)}", f"#define {macro}_ARENA_BYTES {arena_bytes}"]
    lines += [f"static const unsigned char {identifier}[] = {{"]
    for start in range(0, len(image), BYTES_A_LINE):
        lines += ["    " + ", ".join(map(str, image[start : start + BYTES_A_LINE])) + ","]
    return "\n".join([*lines, "};", *([more] if more else []), "#endif", ""])
