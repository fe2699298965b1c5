// Symbols that are scanned by columns, as values at their places in the tensor, whose order is by rows.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metaq/base/little_endian.hpp"
#include "metaq/base/sse2.hpp"
#include "metaq/format/ranges.hpp"
#include "metaq/format/scales.hpp"
#include "metaq/format/tensors.hpp"
#include "metaq/format/values.hpp"

namespace metaq {

#ifdef METAQ_SSE2
inline __m128i interleave_low(std::uint16_t, __m128i a, __m128i b) { return _mm_unpacklo_epi16(a, b); }
inline __m128i interleave_low(std::uint32_t, __m128i a, __m128i b) { return _mm_unpacklo_epi32(a, b); }
inline __m128i interleave_low(std::uint64_t, __m128i a, __m128i b) { return _mm_unpacklo_epi64(a, b); }
inline __m128i interleave_high(std::uint16_t, __m128i a, __m128i b) { return _mm_unpackhi_epi16(a, b); }
inline __m128i interleave_high(std::uint32_t, __m128i a, __m128i b) { return _mm_unpackhi_epi32(a, b); }
inline __m128i interleave_high(std::uint64_t, __m128i a, __m128i b) { return _mm_unpackhi_epi64(a, b); }

// Words in the side of a square whose lines fill registers.
template <class Word>
inline constexpr std::size_t square_side = 16 / sizeof(Word);

// The lines of a square, `from_stride` words apart, as columns, `to_stride` words apart.
template <class Word>
void transpose_square(const Word* from, std::size_t from_stride, Word* to, std::size_t to_stride) {
    constexpr std::size_t kSide = square_side<Word>;
    __m128i lines[kSide], next[kSide];
    for (std::size_t i = 0; i < kSide; ++i)
        lines[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
    for (std::size_t round = 1; round < kSide; round *= 2) {
        for (std::size_t i = 0; i < kSide / 2; ++i) {
            next[2 * i] = interleave_low(Word{}, lines[i], lines[i + kSide / 2]);
            next[2 * i + 1] = interleave_high(Word{}, lines[i], lines[i + kSide / 2]);
        }
        std::copy(next, next + kSide, lines);
    }
    for (std::size_t i = 0; i < kSide; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), lines[i]);
}
#else
template <class Word>
inline constexpr std::size_t square_side = 1;

template <class Word>
void transpose_square(const Word* from, std::size_t, Word* to, std::size_t) {
    *to = *from;
}
#endif

// The elements of some columns of a matrix, from a range of the transposed matrix to a range of the matrix.
class ColumnScan {
public:
    // `symbols` are those of the elements `scanned` of the transposed matrix; there is room for the elements `wanted` of
    // the matrix at `out`. Neither range is empty.
    ColumnScan(const FileMatrix& matrix, const std::int32_t* symbols, Range scanned, std::uint8_t* out, Range wanted)
        : matrix_(matrix), symbols_(symbols), scanned_(scanned), out_(out), wanted_(wanted) {}

    // Writes those of the elements that are wanted, as values.
    void write_values(float step, Dtype dtype) const {
        const auto bits_of = [](std::int32_t symbol, float row, float column) {
            return std::bit_cast<std::uint32_t>(static_cast<float>(symbol) * row * column);
        };
        switch (dtype) {
            case Dtype::float16:
                return write<std::uint16_t>(
                    step, [&](std::int32_t q, float row, float column) { return to_float16(bits_of(q, row, column)); });
            case Dtype::bfloat16:
                return write<std::uint16_t>(step, [&](std::int32_t q, float row, float column) {
                    return to_bfloat16(bits_of(q, row, column));
                });
            case Dtype::float64:
                return write<std::uint64_t>(
                    step, [&](std::int32_t q, float row, float column) { return to_float64(bits_of(q, row, column)); });
            default: return write<std::uint32_t>(step, bits_of);
        }
    }

    // As before, as the symbols themselves.
    void write_symbols() const {
        write<std::uint32_t>(1, [](std::int32_t q, float, float) { return static_cast<std::uint32_t>(q); });
    }

private:
    static constexpr std::size_t kTileRows = 32, kTileColumns = 64;
    static constexpr std::size_t kBandRows = 1024;  // each on a page of its own, of which a processor knows as many

    template <class Word>
    struct Tile {
        std::array<std::array<Word, kTileRows>, kTileColumns> by_columns;
        std::array<std::array<Word, kTileColumns>, kTileRows> by_rows;
    };

    template <class Word, class WordOf>
    void write(float step, const WordOf& word_of) const {
        visit_lines(scanned_, matrix_.rows, [&](Range columns, Range there) {
            visit_lines(wanted_, matrix_.columns, [&](Range rows, Range wanted) {
                rows = intersection(rows, there);
                wanted = intersection(wanted, columns);
                if (wanted.is_empty()) return;
                for (; !rows.is_empty(); rows.first += kBandRows) {
                    const Range band{rows.first, std::min(rows.end, rows.first + kBandRows)};
                    write_band<Word>(band, wanted, step, word_of);
                }
            });
        });
    }

    // Tile by tile, so that of each line of the cache on both sides much is used at once.
    template <class Word, class WordOf>
    void write_band(Range rows, Range columns, float step, const WordOf& word_of) const {
        std::array<float, kBandRows> steps;
        Tile<Word> tile{};  // of which squares may take more than is filled
        for (std::uint64_t row = rows.first; row < rows.end; ++row)
            steps[static_cast<std::size_t>(row - rows.first)] = row_step(matrix_, row, step);
        for (std::uint64_t column = columns.first; column < columns.end; column += kTileColumns) {
            const Range of_tile{column, std::min(columns.end, column + kTileColumns)};
            for (std::uint64_t row = rows.first; row < rows.end; row += kTileRows) {
                const float* const tile_steps = steps.data() + (row - rows.first);
                write_tile<Word>({row, std::min(rows.end, row + kTileRows)}, of_tile, tile_steps, word_of, tile);
            }
        }
    }

    template <class Word, class WordOf>
    void write_tile(Range rows, Range columns, const float* steps, const WordOf& word_of, Tile<Word>& tile) const {
        constexpr std::size_t kSide = square_side<Word>;
        auto& [by_columns, by_rows] = tile;
        for (std::uint64_t row = rows.first; row < rows.end; ++row)
            fetch(place_of<Word>(row, columns.first), columns.size() * sizeof(Word));
        for (std::size_t j = 0; j < columns.size(); ++j) {
            const std::uint64_t column = columns.first + j;
            const float scale = column_scale(matrix_, column);
            const std::int32_t* const symbols = symbols_ + (column * matrix_.rows + rows.first - scanned_.first);
            for (std::size_t i = 0; i < rows.size(); ++i) by_columns[j][i] = word_of(symbols[i], steps[i], scale);
        }
        for (std::size_t j = 0; j < columns.size(); j += kSide) {
            for (std::size_t i = 0; i < rows.size(); i += kSide)
                transpose_square(&by_columns[j][i], kTileRows, &by_rows[i][j], kTileColumns);
        }
        for (std::size_t i = 0; i < rows.size(); ++i) {
            write_words(by_rows[i].data(), columns.size(), place_of<Word>(rows.first + i, columns.first));
        }
    }

    template <class Word>
    std::uint8_t* place_of(std::uint64_t row, std::uint64_t column) const {
        return out_ + (row * matrix_.columns + column - wanted_.first) * sizeof(Word);
    }

    // Lines of the cache that will be written: that takes a third of the time if they are there.
    static void fetch([[maybe_unused]] const std::uint8_t* first, [[maybe_unused]] std::size_t size_bytes) {
#ifdef __GNUC__
        for (std::size_t i = 0; i < size_bytes; i += 64) __builtin_prefetch(first + i, 1);
#endif
    }

    // In the order of bytes of a file.
    template <class Word>
    static void write_words(const Word* words, std::size_t count, std::uint8_t* out) {
        if constexpr (std::endian::native == std::endian::little) {
            std::memcpy(out, words, count * sizeof(Word));
        } else {
            for (std::size_t i = 0; i < count; ++i) write_little_endian(out + i * sizeof(Word), words[i]);
        }
    }

    const FileMatrix& matrix_;
    const std::int32_t* symbols_;
    Range scanned_;
    std::uint8_t* out_;
    Range wanted_;
};

}  // namespace metaq
