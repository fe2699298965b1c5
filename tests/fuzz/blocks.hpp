// What the fuzz targets of coders take from their input: bytes, and blocks of the shapes that bytes say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "metaq/base/symbols.hpp"

namespace fuzz {

using Bytes = std::vector<std::uint8_t>;

inline void check(bool holds) {
    if (!holds) std::abort();
}

class Input {
public:
    explicit Input(std::span<const std::uint8_t> data) : data_(data) {}

    // Zeros follow the end.
    std::uint8_t byte() {
        if (data_.empty()) return 0;
        const std::uint8_t value = data_.front();
        data_ = data_.subspan(1);
        return value;
    }
    std::size_t word() {
        const std::size_t low = byte();
        return low | std::size_t{byte()} << 8;
    }
    std::span<const std::uint8_t> rest() const { return data_; }

private:
    std::span<const std::uint8_t> data_;
};

// Up to four blocks of at most so many symbols in all, three bytes each.
struct Blocks {
    std::vector<std::int32_t> symbols;
    std::vector<metaq::Block> blocks;
    std::vector<metaq::ConstBlock> constant;

    Blocks(Input& input, std::size_t symbols_limit) {
        const std::size_t count = 1 + input.byte() % 4;
        std::size_t size = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t rows = input.byte() % 64, channels = input.byte() % 64, kernel = 1 + input.byte() % 30;
            if (size + rows * channels * kernel > symbols_limit) break;
            size += rows * channels * kernel;
            blocks.push_back({nullptr, rows, channels, kernel});
        }
        symbols.resize(size);
        place();
    }
    // With symbols of its own.
    Blocks(const Blocks& other) : symbols(other.symbols.size()), blocks(other.blocks) { place(); }

    bool has_empty_block() const {
        for (const metaq::Block& block : blocks) {
            if (block.size() == 0) return true;
        }
        return blocks.empty();
    }

private:
    void place() {
        std::int32_t* first = symbols.data();
        for (metaq::Block& block : blocks) {
            block.symbols = first;
            first += block.size();
            constant.push_back({block.symbols, block.rows, block.channels, block.kernel});
        }
    }
};

}  // namespace fuzz
