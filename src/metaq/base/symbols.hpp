// What every coder codes: blocks of integer symbols, and how decoding can end.
//
// A block is a tensor, or a run of whole rows of one, seen as rows x channels x kernel (docs/format.md, "Blocks"):
// a convolution's filters, input channels and kernel positions; a matrix's rows and columns with a kernel of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace metaq {

template <class Symbol>
struct BasicBlock {
    Symbol* symbols;  // rows * channels * kernel of them, in that order, the kernel position fastest
    std::size_t rows;
    std::size_t channels;
    std::size_t kernel;

    std::size_t size() const { return rows * channels * kernel; }
};

using Block = BasicBlock<std::int32_t>;             // filled by decoding
using ConstBlock = BasicBlock<const std::int32_t>;  // read by encoding

// Symbols lie strictly between -kSymbolLimit and kSymbolLimit; whatever decodes to another is corrupt.
inline constexpr std::int32_t kSymbolLimit = 1 << 30;
inline bool is_symbol(std::int64_t value) { return -kSymbolLimit < value && value < kSymbolLimit; }

inline constexpr std::size_t kSymbolsPerByte = 1u << 19;  // no stream stands for more than this

// The least size of a stream of such blocks.
template <class SomeBlock>
std::size_t least_bytes(std::span<const SomeBlock> blocks) {
    std::size_t symbols = 0;
    for (const SomeBlock& block : blocks) symbols += block.size();
    return symbols / kSymbolsPerByte + (symbols % kSymbolsPerByte != 0);
}

enum class Status {
    ok,
    truncated,  // the data ended before the last symbol
    corrupt,    // a value that no encoder writes, or bytes left over
    no_memory,  // an allocation failed
};

}  // namespace metaq
