// Symbols of scaled tensors to values: to each row and each column of a matrix its own step (docs/format.md, "Scales").
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/format/ranges.hpp"
#include "metaq/format/tensors.hpp"
#include "metaq/format/values.hpp"

namespace metaq {

// 2^(e/8) of the int8 `log`: one of eight mantissas, and an exponent that is added to theirs.
inline float scale_of(std::uint8_t log) {
    constexpr std::array<std::uint32_t, 8> kMantissas{0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7,
                                                      0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
    const auto octaves = static_cast<std::uint32_t>(static_cast<std::int8_t>(log) >> 3);
    return std::bit_cast<float>(kMantissas[log & 7] + (octaves << 23));
}

// The step of a row, and the scale of a column.
inline float row_step(const FileMatrix& matrix, std::uint64_t row, float step) {
    return matrix.row_logs.empty() ? step : step * scale_of(matrix.row_logs[static_cast<std::size_t>(row)]);
}
inline float column_scale(const FileMatrix& matrix, std::uint64_t column) {
    return matrix.column_logs.empty() ? 1 : scale_of(matrix.column_logs[static_cast<std::size_t>(column)]);
}

// The values of symbols of a scaled tensor that is scanned by rows.
class ScaledValues {
public:
    ScaledValues(const FileMatrix& matrix, float step, Dtype dtype) : matrix_(matrix), step_(step), dtype_(dtype) {}

    // Writes the values of the symbols from the `first` on. `out` may be where they are, if values are as wide.
    void write(std::span<const std::int32_t> symbols, std::uint64_t first, std::uint8_t* out) const {
        std::array<float, kPiece> scales;  // of columns that rows share
        visit_lines({first, first + symbols.size()}, matrix_.columns, [&](Range rows, Range columns) {
            for (; !columns.is_empty(); columns.first += kPiece) {
                const std::size_t count = std::min(kPiece, columns.size());
                for (std::size_t i = 0; i < count; ++i) scales[i] = column_scale(matrix_, columns.first + i);
                for (std::uint64_t row = rows.first; row < rows.end; ++row) {
                    const auto at = static_cast<std::size_t>(row * matrix_.columns + columns.first - first);
                    write_row(symbols.subspan(at, count), row, scales.data(), out + at * traits_of(dtype_).bytes);
                }
            }
        });
    }

private:
#ifdef METAQ_SMALL
    static constexpr std::size_t kPiece = 32;
#else
    static constexpr std::size_t kPiece = 1024;
#endif

    // At most kPiece symbols of one row. Values are made beside the symbols, whose place they may take.
    void write_row(std::span<const std::int32_t> symbols, std::uint64_t row, const float* scales,
                   std::uint8_t* out) const {
        std::array<std::int32_t, kPiece> bits;
        const float step = row_step(matrix_, row, step_);
        for (std::size_t i = 0; i < symbols.size(); ++i)
            bits[i] = std::bit_cast<std::int32_t>(static_cast<float>(symbols[i]) * step * scales[i]);
        write_float_bits(std::span(bits).first(symbols.size()), dtype_, out);
    }

    const FileMatrix& matrix_;
    float step_;
    Dtype dtype_;
};

}  // namespace metaq
