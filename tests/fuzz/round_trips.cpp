// Fuzz target: every coder. The input says which coder, the shapes of up to four blocks, and then either symbols, which
// have to come back, or a stream, which may be refused, and otherwise has to come back when it is coded again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <span>
#include <vector>

#include "metaq/adaptive/coder.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/coder.hpp"
#include "metaq/text/coder.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

struct Coder {
    metaq::Status (*encode)(std::span<const metaq::ConstBlock>, Bytes&);
    metaq::Status (*decode)(std::span<const std::uint8_t>, std::span<const metaq::Block>);
};

constexpr Coder kCoders[]{{metaq::huffman::encode, metaq::huffman::decode},
                          {metaq::range::encode, metaq::range::decode},
                          {metaq::mixing::encode, metaq::mixing::decode},
                          {metaq::rans::encode, metaq::rans::decode},
                          {metaq::adaptive::encode, metaq::adaptive::decode}};
constexpr std::size_t kTextCoder = std::size(kCoders);
constexpr std::size_t kSymbolsLimit = 1 << 11;

void check(bool holds) {
    if (!holds) std::abort();
}

class Input {
public:
    explicit Input(std::span<const std::uint8_t> data) : data_(data) {}

    std::uint8_t byte() {
        if (data_.empty()) return 0;
        const std::uint8_t value = data_.front();
        data_ = data_.subspan(1);
        return value;
    }
    std::span<const std::uint8_t> rest() const { return data_; }

private:
    std::span<const std::uint8_t> data_;
};

struct Blocks {
    std::vector<std::int32_t> symbols;
    std::vector<metaq::Block> blocks;
    std::vector<metaq::ConstBlock> constant;

    explicit Blocks(Input& input) {
        const std::size_t count = 1 + input.byte() % 4;
        std::size_t size = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t rows = input.byte() % 64, channels = input.byte() % 64, kernel = 1 + input.byte() % 30;
            if (size + rows * channels * kernel > kSymbolsLimit) break;
            size += rows * channels * kernel;
            blocks.push_back({nullptr, rows, channels, kernel});
        }
        symbols.resize(size);
        place();
    }
    // With symbols of its own.
    Blocks(const Blocks& other) : symbols(other.symbols.size()), blocks(other.blocks) { place(); }

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

void round_trip(const Coder& coder, const Blocks& blocks) {
    Bytes code, again;
    check(coder.encode(blocks.constant, code) == metaq::Status::ok);
    Blocks decoded(blocks);
    check(coder.decode(code, decoded.blocks) == metaq::Status::ok);
    check(decoded.symbols == blocks.symbols);
    check(coder.encode(decoded.constant, again) == metaq::Status::ok);
    check(again == code);
}

void round_trip_text(std::span<const std::uint8_t> bytes) {
    Bytes code;
    check(metaq::text::encode(bytes, code) == metaq::Status::ok);
    Bytes decoded(bytes.size());
    check(metaq::text::decode(code, decoded) == metaq::Status::ok);
    check(std::equal(bytes.begin(), bytes.end(), decoded.begin()));
    (void)metaq::text::decode(bytes, decoded);  // which may be refused
}

// Symbols of the width that `scale` says, mostly small ones.
void fill(std::vector<std::int32_t>& symbols, Input& input, std::uint8_t scale) {
    std::uint32_t state = 1;
    for (std::int32_t& symbol : symbols) {
        state = state * 1664525u + 1013904223u + input.byte();
        const unsigned width = scale % 31;
        const std::int32_t limit = metaq::kSymbolLimit - 1;
        const auto wide = static_cast<std::int32_t>((state >> 1) & ((1u << width) - 1));
        symbol = (state >> 31) != 0 ? -std::min(wide, limit) : std::min(wide, limit);
        if (scale >= 128 && (state >> 8 & 7) != 0) symbol = 0;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(std::span(bytes, size));
    const std::size_t which = input.byte();
    const bool is_stream = input.byte() % 2 == 1;
    if (which % (kTextCoder + 1) == kTextCoder) {
        round_trip_text(input.rest().first(std::min<std::size_t>(input.rest().size(), 4096)));
        return 0;
    }
    const Coder& coder = kCoders[which % (kTextCoder + 1)];
    Blocks blocks(input);
    if (is_stream) {
        if (coder.decode(input.rest(), blocks.blocks) == metaq::Status::ok) round_trip(coder, blocks);
        return 0;
    }
    const std::uint8_t scale = input.byte();
    fill(blocks.symbols, input, scale);
    round_trip(coder, blocks);
    return 0;
}
