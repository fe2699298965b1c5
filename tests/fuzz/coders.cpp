// Fuzz target: every coder. The input says which coder, the shapes of up to four blocks, and then either symbols, which have
// to come back, or the payload of a chunk, which may be refused. Whatever is taken of that is symbols, the same for all decoders
// of the coder, and they come back when they are coded again.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <vector>

#include "blocks.hpp"
#include "metaq/adaptive/coder.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/device/whole_rows.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/huffman/rows.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/mixing/rows.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/range/rows.hpp"
#include "metaq/rans/coder.hpp"
#include "metaq/rans/decoder.hpp"
#include "metaq/rans/rows.hpp"
#include "metaq/stored/coder.hpp"
#include "metaq/stored/rows.hpp"
#include "metaq/text/coder.hpp"

namespace {

using fuzz::Blocks;
using fuzz::Bytes;
using fuzz::check;
using fuzz::Input;
using metaq::Status;
using Payload = std::span<const std::uint8_t>;

// As small devices do: each row by itself, behind the one before.
template <class RowDecoder>
Status decode_rows(Payload payload, std::span<const metaq::Block> blocks) {
    RowDecoder rows;
    Status status = rows.open(payload, blocks);
    for (std::size_t i = 0; i < blocks.size() && status == Status::ok; ++i) {
        status = rows.start_block(blocks[i]);
        const std::size_t size = blocks[i].channels * blocks[i].kernel;
        for (std::size_t row = 0; row < blocks[i].rows && status == Status::ok; ++row)
            status = rows.read_row(blocks[i].symbols + row * size);
    }
    return status == Status::ok ? rows.finish() : status;
}

struct Coder {
    Status (*decode)(Payload, std::span<const metaq::Block>);
    Status (*decode_rows)(Payload, std::span<const metaq::Block>);
    Status (*encode)(std::span<const metaq::ConstBlock>, Bytes&);  // null: Python stores
    std::size_t symbols_limit;                                     // so that no coder takes most of the time
};

constexpr Coder kCoders[]{
    {metaq::stored::decode, decode_rows<metaq::stored::RowDecoder>, nullptr, 1 << 14},
    {metaq::huffman::decode, decode_rows<metaq::huffman::RowDecoder>, metaq::huffman::encode, 1 << 14},
    {metaq::range::decode, decode_rows<metaq::range::RowDecoder>, metaq::range::encode, 1 << 14},
    {metaq::mixing::decode, decode_rows<metaq::mixing::RowDecoder>, metaq::mixing::encode, 1 << 10},
    {metaq::rans::decode, decode_rows<metaq::rans::RowDecoder>, metaq::rans::encode, 1 << 14},
    {metaq::adaptive::decode, decode_rows<metaq::device::WholeRows<metaq::adaptive::decode>>, metaq::adaptive::encode,
     1 << 12}};
constexpr std::size_t kStored = 0, kRans = 4, kText = std::size(kCoders), kTextLimit = 2048;

// Where a payload of bytes is looked at in its place, there are the symbols.
void borrow(Payload payload, const Blocks& blocks, bool is_good) {
    const auto size_of = [&](std::size_t i) { return blocks.blocks[i].size(); };
    const std::uint8_t* const borrowed = metaq::stored::borrow_bytes(payload, blocks.blocks.size(), size_of);
    if (borrowed == nullptr) return;
    check(is_good);
    for (std::size_t i = 0; i < blocks.symbols.size(); ++i)
        check(static_cast<std::int8_t>(borrowed[i]) == blocks.symbols[i]);
}

// Each path gives the same symbols, and straight away the values that they have in each form, at any address.
void decode_by_paths(Payload payload, const Blocks& blocks, bool is_good) {
    using metaq::rans::Form;
    using metaq::rans::Path;
    static constexpr std::array<float, 7> kLevels{-3, -1, -0.25f, 0, 0.125f, 70000, 1e30f};
    static constexpr metaq::rans::Codebook kUniform{0.7f, {}, 0}, kTable{1, kLevels, 3};
    for (const Path path : {Path::portable, Path::avx2, Path::avx512, Path::neon}) {
        if (!metaq::rans::is_available(path)) continue;
        Blocks again(blocks);
        check((metaq::rans::decode(payload, again.blocks, path) == Status::ok) == is_good);
        check(!is_good || again.symbols == blocks.symbols);
        for (const Form form : {Form::int8, Form::float32, Form::float16, Form::bfloat16}) {
            const std::size_t width = metaq::rans::width_bytes(form);
            Bytes values(blocks.symbols.size() * width + 1), expected(values.size());
            std::vector<metaq::rans::ValueBlock> places;
            std::uint8_t* place = values.data() + 1;
            bool have_values = is_good;
            for (const metaq::Block& block : blocks.blocks) {
                places.push_back({place, block.rows, block.channels, block.kernel, form,
                                  places.size() % 2 == 0 ? kUniform : kTable});
                for (std::size_t i = 0; i < block.size(); ++i, place += width) {
                    std::uint32_t bits = 0;
                    have_values &= metaq::rans::value_bits(places.back(), block.symbols[i], bits);
                    for (std::size_t k = 0; k < width; ++k)
                        expected[static_cast<std::size_t>(place - values.data()) + k] =
                            static_cast<std::uint8_t>(bits >> 8 * k);
                }
            }
            check((metaq::rans::decode_values(payload, places, path) == Status::ok) == have_values);
            check(!have_values || values == expected);
        }
    }
}

void round_trip(const Coder& coder, const Blocks& blocks) {
    Bytes code, again;
    check(coder.encode(blocks.constant, code) == Status::ok);
    Blocks decoded(blocks);
    check(coder.decode(code, decoded.blocks) == Status::ok);
    check(decoded.symbols == blocks.symbols);
    check(coder.encode(decoded.constant, again) == Status::ok);
    check(again == code);
}

void round_trip_text(std::span<const std::uint8_t> text) {
    Bytes code, decoded(text.size());
    check(metaq::text::encode(text, code) == Status::ok);
    check(metaq::text::decode(code, decoded) == Status::ok);
    check(std::equal(text.begin(), text.end(), decoded.begin()));
}

void decode_text(Payload payload, std::size_t size) {
    Bytes text(size);
    if (metaq::text::decode(payload, text) == Status::ok) round_trip_text(text);
}

void decode(std::size_t which, const Coder& coder, Payload payload, Blocks& blocks) {
    const bool is_good = coder.decode(payload, blocks.blocks) == Status::ok;
    if (!blocks.has_empty_block()) {  // chunks have none
        Blocks rows(blocks);
        check((coder.decode_rows(payload, rows.blocks) == Status::ok) == is_good);
        check(!is_good || rows.symbols == blocks.symbols);
    }
    if (which == kStored) borrow(payload, blocks, is_good);
    if (which == kRans) decode_by_paths(payload, blocks, is_good);
    if (!is_good) return;
    check(std::all_of(blocks.symbols.begin(), blocks.symbols.end(), metaq::is_symbol));
    if (coder.encode != nullptr) round_trip(coder, blocks);
}

// Symbols of the width that `scale` says, mostly small ones; some inputs say another for each 64 of them.
void fill(std::vector<std::int32_t>& symbols, Input& input, std::uint8_t scale) {
    const bool has_one_scale = scale % 2 == 0;
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        if (!has_one_scale && i % 64 == 0) scale = input.byte();
        state = state * 1664525u + 1013904223u + input.byte();
        const unsigned width = scale % 31;
        const std::int32_t limit = metaq::kSymbolLimit - 1;
        const auto wide = static_cast<std::int32_t>((state >> 1) & ((1u << width) - 1));
        symbols[i] = (state >> 31) != 0 ? -std::min(wide, limit) : std::min(wide, limit);
        if (scale >= 128 && (state >> 8 & 7) != 0) symbols[i] = 0;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(std::span(bytes, size));
    const std::size_t which = input.byte() % (kText + 1);
    const bool is_payload = input.byte() % 2 == 1;
    if (which == kText && is_payload) {
        const std::size_t text_size = input.word() % kTextLimit;
        decode_text(input.rest(), text_size);
    } else if (which == kText) {
        round_trip_text(input.rest().first(std::min(input.rest().size(), kTextLimit)));
    } else {
        const Coder& coder = kCoders[which];
        Blocks blocks(input, coder.symbols_limit);
        if (is_payload) {
            decode(which, coder, input.rest(), blocks);
        } else if (coder.encode != nullptr) {
            const std::uint8_t scale = input.byte();
            fill(blocks.symbols, input, scale);
            round_trip(coder, blocks);
        }
    }
    return 0;
}
