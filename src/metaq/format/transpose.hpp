// Elements that are scanned by columns to their places in a tensor, whose order is by rows.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metaq/format/tensors.hpp"

namespace metaq {

// A range of elements, flat: [first, end).
struct ElementRange {
    std::uint64_t first, end;
};

// Copies elements of a matrix between two orders.
class ColumnScan {
public:
    // `scanned` are the elements of a range of the transposed matrix, `wanted` those of a range of the matrix that there
    // is room for. Elements have `width` bytes, 1, 2, 4 or 8, and may lie at any address.
    ColumnScan(const FileMatrix& matrix, std::size_t width, ElementRange scanned, ElementRange wanted)
        : rows_(matrix.rows), columns_(matrix.columns), width_(width), scanned_(scanned), wanted_(wanted) {}

    // Writes those of the scanned elements that are wanted.
    void copy(const std::uint8_t* from, std::uint8_t* to) const {
        const std::uint64_t first = scanned_.first / rows_, end = (scanned_.end - 1) / rows_ + 1;
        const std::uint64_t whole_first = scanned_.first % rows_ == 0 ? first : first + 1;
        const std::uint64_t whole_end = scanned_.end % rows_ == 0 ? end : end - 1;
        if (whole_first > whole_end) return copy_columns({first, end}, from, to);  // within one column
        if (first < whole_first) copy_columns({first, whole_first}, from, to);
        if (whole_first < whole_end) copy_columns({whole_first, whole_end}, from, to);
        if (whole_end < end) copy_columns({whole_end, end}, from, to);
    }

private:
    static constexpr std::size_t kTile = 32;

    // Of columns that are all whole, or of one of which some elements are there.
    void copy_columns(ElementRange columns, const std::uint8_t* from, std::uint8_t* to) const {
        const std::uint64_t first_scanned = std::max(scanned_.first, columns.first * rows_);
        const std::uint64_t end_scanned = std::min(scanned_.end, columns.end * rows_);
        const bool is_whole = end_scanned - first_scanned == (columns.end - columns.first) * rows_;
        const ElementRange there{is_whole ? 0 : first_scanned - columns.first * rows_,
                                 is_whole ? rows_ : end_scanned - columns.first * rows_};
        const std::uint64_t first = wanted_.first / columns_, end = (wanted_.end - 1) / columns_ + 1;
        const std::uint64_t whole_first = wanted_.first % columns_ == 0 ? first : first + 1;
        const std::uint64_t whole_end = wanted_.end % columns_ == 0 ? end : end - 1;
        if (whole_first > whole_end) return copy_rows({first, end}, there, columns, from, to);  // within one row
        copy_rows({first, whole_first}, there, columns, from, to);
        copy_rows({whole_first, whole_end}, there, columns, from, to);
        copy_rows({whole_end, end}, there, columns, from, to);
    }

    // Of rows that are all wanted whole, or of one of which some elements are.
    void copy_rows(ElementRange rows, ElementRange there, ElementRange columns, const std::uint8_t* from,
                   std::uint8_t* to) const {
        rows = {std::max(rows.first, there.first), std::min(rows.end, there.end)};
        if (rows.first >= rows.end) return;
        if (rows.end - rows.first == 1) {
            const std::uint64_t row = rows.first * columns_;
            columns.first = std::max(columns.first, std::max(wanted_.first, row) - row);
            columns.end = std::min(columns.end, std::min(wanted_.end, row + columns_) - row);
            if (columns.first >= columns.end) return;
        }
        from += (columns.first * rows_ + rows.first - scanned_.first) * width_;
        to += (rows.first * columns_ + columns.first - wanted_.first) * width_;
        const auto row_count = static_cast<std::size_t>(rows.end - rows.first);
        const auto column_count = static_cast<std::size_t>(columns.end - columns.first);
        switch (width_) {
            case 1: return transpose<std::uint8_t>(row_count, column_count, from, to);
            case 2: return transpose<std::uint16_t>(row_count, column_count, from, to);
            case 4: return transpose<std::uint32_t>(row_count, column_count, from, to);
            default: return transpose<std::uint64_t>(row_count, column_count, from, to);
        }
    }

    // Tile by tile, so that of each line of the cache on both sides much is used at once.
    template <class Word>
    void transpose(std::size_t rows, std::size_t columns, const std::uint8_t* from, std::uint8_t* to) const {
        std::array<std::array<Word, kTile>, kTile> tile;
        for (std::size_t row = 0; row < rows; row += kTile) {
            const std::size_t height = std::min(kTile, rows - row);
            for (std::size_t column = 0; column < columns; column += kTile) {
                const std::size_t breadth = std::min(kTile, columns - column);
                for (std::size_t j = 0; j < breadth; ++j) {
                    const std::uint8_t* const source = from + ((column + j) * rows_ + row) * sizeof(Word);
                    for (std::size_t i = 0; i < height; ++i)
                        std::memcpy(&tile[i][j], source + i * sizeof(Word), sizeof(Word));
                }
                for (std::size_t i = 0; i < height; ++i) {
                    std::uint8_t* const target = to + ((row + i) * columns_ + column) * sizeof(Word);
                    std::memcpy(target, tile[i].data(), breadth * sizeof(Word));
                }
            }
        }
    }

    std::uint64_t rows_, columns_;
    std::size_t width_;
    ElementRange scanned_, wanted_;
};

}  // namespace metaq
