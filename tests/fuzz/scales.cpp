// Fuzz target: symbols of scaled tensors to values, by rows and by columns, in parts of any size. The input says the sizes of
// a matrix, what is decoded of it and what is wanted, the scales and the symbols. Every element is compared with one that is
// made by itself, and nothing beside them is written.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "blocks.hpp"
#include "metaq/format/column_scan.hpp"
#include "metaq/format/scales.hpp"

namespace {

using fuzz::Bytes;
using fuzz::check;
using metaq::Dtype;
using metaq::FileMatrix;
using metaq::Range;

constexpr Dtype kDtypes[]{Dtype::float32, Dtype::float16, Dtype::bfloat16, Dtype::float64};
constexpr std::size_t kElementsLimit = 1 << 14;
constexpr std::uint8_t kUntouched = 0xa5;

// Part of so many elements, never empty.
Range range(fuzz::Input& input, std::uint64_t size) {
    const std::uint64_t first = input.word() % size;
    return {first, first + 1 + input.word() % (size - first)};
}

Bytes take(fuzz::Input& input, std::uint64_t count) {
    Bytes logs(static_cast<std::size_t>(count));
    for (std::uint8_t& log : logs) log = input.byte();
    return logs;
}

// What docs/format.md says of one element.
Bytes element(const FileMatrix& matrix, std::uint64_t at, std::int32_t symbol, float step, Dtype dtype) {
    const float row = metaq::row_step(matrix, at / matrix.columns, step);
    const float value = static_cast<float>(symbol) * row * metaq::column_scale(matrix, at % matrix.columns);
    const auto bits = std::bit_cast<std::int32_t>(value);
    Bytes bytes(metaq::traits_of(dtype).bytes);
    metaq::write_float_bits({&bits, 1}, dtype, bytes.data());
    return bytes;
}

void check_elements(const Bytes& out, Range wanted, const auto& expected_at) {
    const std::size_t width = out.size() / wanted.size();
    const Bytes untouched(width, kUntouched);
    for (std::uint64_t at = wanted.first; at < wanted.end; ++at) {
        const auto found = std::span(out).subspan(static_cast<std::size_t>(at - wanted.first) * width, width);
        const Bytes expected = expected_at(at, untouched);
        check(std::equal(found.begin(), found.end(), expected.begin()));
    }
}

void scan_by_columns(const FileMatrix& matrix, const std::vector<std::int32_t>& symbols, Range scanned, Range wanted,
                     float step, Dtype dtype) {
    const auto find = [&](std::uint64_t at, std::int32_t& symbol) {
        const std::uint64_t place = at % matrix.columns * matrix.rows + at / matrix.columns;
        if (place < scanned.first || place >= scanned.end) return false;
        symbol = symbols[static_cast<std::size_t>(place - scanned.first)];
        return true;
    };
    std::int32_t symbol = 0;
    Bytes values(wanted.size() * metaq::traits_of(dtype).bytes, kUntouched);
    metaq::ColumnScan(matrix, symbols.data(), scanned, values.data(), wanted).write_values(step, dtype);
    check_elements(values, wanted, [&](std::uint64_t at, const Bytes& untouched) {
        return find(at, symbol) ? element(matrix, at, symbol, step, dtype) : untouched;
    });
    Bytes words(wanted.size() * sizeof symbol, kUntouched);
    metaq::ColumnScan(matrix, symbols.data(), scanned, words.data(), wanted).write_symbols();
    check_elements(words, wanted, [&](std::uint64_t at, const Bytes& untouched) {
        Bytes expected = untouched;
        if (find(at, symbol)) metaq::write_little_endian(expected.data(), static_cast<std::uint32_t>(symbol));
        return expected;
    });
}

void scan_by_rows(const FileMatrix& matrix, const std::vector<std::int32_t>& symbols, Range scanned, float step,
                  Dtype dtype) {
    Bytes values(symbols.size() * metaq::traits_of(dtype).bytes, kUntouched);
    metaq::ScaledValues(matrix, step, dtype).write(symbols, scanned.first, values.data());
    check_elements(values, scanned, [&](std::uint64_t at, const Bytes&) {
        return element(matrix, at, symbols[static_cast<std::size_t>(at - scanned.first)], step, dtype);
    });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    fuzz::Input input(std::span(bytes, size));
    const std::uint8_t flags = input.byte();
    const Dtype dtype = kDtypes[flags % 4];
    const float step = std::ldexp(1.0f + static_cast<float>(input.byte()) / 256,
                                  static_cast<std::int8_t>(input.byte()));
    FileMatrix matrix;
    matrix.rows = 1 + input.word() % 2048;
    matrix.columns = 1 + input.word() % 2048;
    const std::uint64_t elements = matrix.rows * matrix.columns;
    if (elements > kElementsLimit || step == 0) return 0;
    const Range scanned = range(input, elements), wanted = range(input, elements);
    const Bytes row_logs = take(input, flags & 4 ? matrix.rows : 0);
    const Bytes column_logs = take(input, flags & 8 ? matrix.columns : 0);
    matrix.row_logs = row_logs;
    matrix.column_logs = column_logs;
    // A header with another row is refused.
    for (std::uint64_t row = 0; row < matrix.rows; ++row) {
        if (!std::isfinite(metaq::row_step(matrix, row, step))) return 0;
    }
    std::vector<std::int32_t> symbols(scanned.size());
    std::uint32_t state = 1;
    for (std::int32_t& symbol : symbols) {
        state = state * 1664525u + 1013904223u + input.byte();
        symbol = static_cast<std::int32_t>(state) / 2 >> (flags >> 4) * 2;  // within 2^30
    }
    scan_by_rows(matrix, symbols, scanned, step, dtype);
    scan_by_columns(matrix, symbols, scanned, wanted, step, dtype);
    return 0;
}
