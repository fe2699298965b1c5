// Symbols as plain integers: every block's width of 1, 2 or 4 bytes, then all symbols, little-endian.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "metaq/base/symbols.hpp"

namespace metaq::stored {

template <unsigned kWidth>
bool read_symbols(const std::uint8_t* bytes, std::span<std::int32_t> symbols) {
    constexpr unsigned kUnused = 32 - 8 * kWidth;
    bool are_symbols = true;
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        std::uint32_t word = 0;
        for (unsigned at = 0; at < kWidth; ++at) word |= std::uint32_t{bytes[i * kWidth + at]} << 8 * at;
        const std::int32_t symbol = static_cast<std::int32_t>(word << kUnused) >> kUnused;
        if constexpr (kUnused == 0) are_symbols &= is_symbol(symbol);
        symbols[i] = symbol;
    }
    return are_symbols;
}

// Whether there are blocks of these sizes and no more. Sizes are those of the blocks, in symbols.
template <class SizeOf>
Status check_size(std::span<const std::uint8_t> data, std::size_t blocks, const SizeOf& size_of) {
    if (data.size() < blocks) return Status::truncated;
    std::size_t expected = blocks;
    for (std::size_t i = 0; i < blocks; ++i) {
        if (data[i] != 1 && data[i] != 2 && data[i] != 4) return Status::corrupt;
        if (size_of(i) > (data.size() - expected) / data[i]) return Status::truncated;
        expected += size_of(i) * data[i];
    }
    return data.size() == expected ? Status::ok : Status::corrupt;
}

// Every width is read once, so that it is the one that was checked also where others write to the data meanwhile.
inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    if (data.size() < blocks.size()) return Status::truncated;
    std::span<const std::uint8_t> rest = data.subspan(blocks.size());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const std::span symbols(blocks[i].symbols, blocks[i].size());
        const std::size_t width = data[i];
        if (width != 1 && width != 2 && width != 4) return Status::corrupt;
        if (symbols.size() > rest.size() / width) return Status::truncated;
        const bool are_symbols = width == 1   ? read_symbols<1>(rest.data(), symbols)
                                 : width == 2 ? read_symbols<2>(rest.data(), symbols)
                                              : read_symbols<4>(rest.data(), symbols);
        if (!are_symbols) return Status::corrupt;
        rest = rest.subspan(symbols.size() * width);
    }
    return rest.empty() ? Status::ok : Status::corrupt;
}

// Symbols of one byte each, without copying them: null if a block's are wider, or the data is not what `decode` takes.
template <class SizeOf>
const std::uint8_t* borrow_bytes(std::span<const std::uint8_t> data, std::size_t blocks, const SizeOf& size_of) {
    if (check_size(data, blocks, size_of) != Status::ok) return nullptr;
    const auto widths = data.first(blocks);
    const bool are_bytes = std::all_of(widths.begin(), widths.end(), [](std::uint8_t width) { return width == 1; });
    return are_bytes ? data.data() + blocks : nullptr;
}

}  // namespace metaq::stored
