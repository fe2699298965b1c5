"""rANS decoding as a kernel of Triton (docs/format.md, "7 rANS"): one program for each chunk, one thread for each lane.

With `TRITON_INTERPRET=1` in the environment it runs on the CPU, as its tests do.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def decode_chunks(  # type: ignore[no-untyped-def]
    octets,
    fields,
    slots,
    listed,
    unit_ends,
    unit_tables,
    out,
    are_good,
    FIELDS: tl.constexpr,
    ORIGIN: tl.constexpr,
    LEAST: tl.constexpr,
    GREATEST: tl.constexpr,
):
    """Decode one chunk in each program.

    Args:
        octets: the file, uint8.
        fields: int64, `FIELDS` of each chunk, as in `metaq.gpu.streams.Field`.
        slots: of all tables of all chunks, uint32: from the lowest bit on an offset, the frequency minus one, the next
            context, and, in the highest eight bits, the entry.
        listed: the symbols of all entries but escapes, int32.
        unit_ends, unit_tables: where units end in their chunks, and where the tables of their classes begin, uint32.
        out: symbols plus ``ORIGIN``, of any integer type; those outside of ``LEAST`` to ``GREATEST`` make a chunk bad.
        are_good: int32 of each chunk: whether its states, words and escapes ended as an encoder begins.
    """
    row = fields + tl.program_id(0).to(tl.int64) * FIELDS
    size = tl.load(row + 0)
    states_place = tl.load(row + 1)
    words = tl.load(row + 2)
    precision = tl.load(row + 3).to(tl.uint32)
    context_mask = tl.load(row + 4).to(tl.uint32)
    chunk_slots = slots + tl.load(row + 5)
    chunk_listed = listed + tl.load(row + 6)
    listed_count = tl.load(row + 7).to(tl.uint32)
    first_unit = tl.load(row + 8)
    units = tl.load(row + 9)
    chunk_out = out + tl.load(row + 10)
    escapes = tl.load(row + 11)
    escape_base = tl.load(row + 12)
    escape_width = tl.load(row + 13)
    escaped_bits = tl.load(row + 14) * 8
    lanes = tl.load(row + 15)
    halvings = tl.load(row + 16)

    lane = tl.arange(0, 32)  # a warp's threads; of streams of fewer lanes some idle
    is_lane = lane < lanes
    share, rest = size // lanes, size % lanes
    start = tl.where(is_lane, lane * share + tl.minimum(lane, rest), 0)
    steps = tl.where(is_lane, share + (lane < rest).to(tl.int64), 0)
    state = tl.where(is_lane, 0, 65536).to(tl.uint32)
    for byte in tl.static_range(4):
        octet = tl.load(octets + states_place + 4 * lane + byte, mask=is_lane, other=0)
        state |= octet.to(tl.uint32) << (8 * byte)
    is_good = tl.min((state >= 65536).to(tl.int32))
    words_place = octets + states_place + 4 * lanes

    # The first unit that ends behind the lane's first symbol.
    unit, above = start * 0, start * 0 + units - 1
    for _ in range(halvings):
        middle = (unit + above) // 2
        is_behind = tl.load(unit_ends + first_unit + middle).to(tl.int64) <= start
        unit = tl.where(is_behind, tl.minimum(middle + 1, above), unit)
        above = tl.where(is_behind, above, middle)
    unit_end = tl.load(unit_ends + first_unit + unit).to(tl.int64)
    table = tl.load(unit_tables + first_unit + unit).to(tl.int64)

    mask = (state * 0 + 1 << precision) - 1
    context = (state * 0).to(tl.int64)
    word, escape = size * 0, size * 0
    for step in range(tl.max(steps)):
        is_active = steps > step
        position = start + step
        is_next = is_active & (position >= unit_end) & (unit + 1 < units)
        unit += is_next.to(tl.int64)
        unit_end = tl.load(unit_ends + first_unit + unit, mask=is_next, other=0).to(tl.int64) + tl.where(
            is_next, 0, unit_end
        )
        table = tl.load(unit_tables + first_unit + unit, mask=is_next, other=0).to(tl.int64) + tl.where(
            is_next, 0, table
        )
        place = table + (context << precision.to(tl.int64)) + (state & mask).to(tl.int64)
        slot = tl.load(chunk_slots + place, mask=is_active, other=0)
        moved = (((slot >> precision) & mask) + 1) * (state >> precision) + (slot & mask)
        takes = is_active & (moved < 65536)
        counts = takes.to(tl.int32)
        at = word + tl.cumsum(counts) - counts
        is_there = takes & (at < words)
        low = tl.load(words_place + 2 * at, mask=is_there, other=0).to(tl.uint32)
        high = tl.load(words_place + 2 * at + 1, mask=is_there, other=0).to(tl.uint32)
        state = tl.where(is_active, tl.where(takes, (moved << 16) | (high << 8) | low, moved), state)
        word += tl.sum(counts)
        entry = slot >> 24
        context = ((slot >> (2 * precision)) & context_mask).to(tl.int64)
        escaping = is_active & (entry >= listed_count)
        symbol = tl.load(chunk_listed + entry.to(tl.int64), mask=is_active & (entry < listed_count), other=0).to(
            tl.int64
        )
        is_good &= tl.min((~escaping | (escapes > 0)).to(tl.int32))
        if escapes > 0:
            raws = escaping.to(tl.int32)
            number = escape + tl.cumsum(raws) - raws
            bit = escaped_bits + number * escape_width
            is_known = escaping & (number < escapes)
            raw = symbol * 0
            for byte in tl.static_range(5):
                raw = (raw << 8) | tl.load(octets + bit // 8 + byte, mask=is_known, other=0).to(tl.int64)
            raw = (raw >> (40 - bit % 8 - escape_width)) & ((symbol * 0 + 1 << escape_width) - 1)
            symbol = tl.where(escaping, escape_base + raw, symbol)
            escape += tl.sum(raws)
        is_good &= tl.min(((symbol >= LEAST) & (symbol <= GREATEST)).to(tl.int32))
        tl.store(chunk_out + position, (symbol + ORIGIN).to(out.dtype.element_ty), mask=is_active)
    is_good &= tl.min((state == 65536).to(tl.int32)) & (word == words).to(tl.int32) & (escape == escapes).to(tl.int32)
    tl.store(are_good + tl.program_id(0), is_good)
