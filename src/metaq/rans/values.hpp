// What decoded entries become: symbols, or the values that they stand for.
//
// For each block a table, made once, says the bytes that an entry becomes, so that every form of output takes the same
// kernels and one look-up.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "metaq/base/alphabet.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/floats.hpp"
#include "metaq/base/little_endian.hpp"
#include "metaq/base/symbols.hpp"
#include "metaq/rans/kernels.hpp"

namespace metaq::rans {

enum class Form : std::uint8_t { int32, int8, float32, float16, bfloat16 };

inline std::size_t width_bytes(Form form) {
    return form == Form::int8 ? 1 : form == Form::float16 || form == Form::bfloat16 ? 2 : 4;
}

// What a symbol q stands for: in the integer forms q, in the others level q + origin or, without levels, step * q.
struct Codebook {
    float step = 1;
    std::span<const float> levels;
    std::int32_t origin = 0;
};

// A block of values to be filled, symbols of int32 in the machine's order of bytes and all others little-endian; `values` may
// lie at any address.
struct ValueBlock {
    std::uint8_t* values = nullptr;
    std::size_t rows = 0;
    std::size_t channels = 0;
    std::size_t kernel = 0;
    Form form = Form::int32;
    Codebook codebook;

    std::size_t size() const { return rows * channels * kernel; }
};

// Finds the bits of a symbol's value in the block's form. Returns false if the symbol stands for no value.
inline bool value_bits(const ValueBlock& block, std::int32_t symbol, std::uint32_t& bits) {
    bits = static_cast<std::uint32_t>(symbol);
    if (block.form == Form::int32) return true;
    if (block.form == Form::int8) return -128 <= symbol && symbol <= 127;
    float value = block.codebook.step * static_cast<float>(symbol);
    if (!block.codebook.levels.empty()) {
        const std::int64_t level = std::int64_t{symbol} + block.codebook.origin;
        if (level < 0 || level >= static_cast<std::int64_t>(block.codebook.levels.size())) return false;
        value = block.codebook.levels[static_cast<std::size_t>(level)];
    }
    bits = std::bit_cast<std::uint32_t>(value);
    if (block.form == Form::float16) bits = to_float16(bits);
    if (block.form == Form::bfloat16) bits = to_bfloat16(bits);
    return true;
}

inline bool have_same_values(const ValueBlock& a, const ValueBlock& b) {
    const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value); };
    const auto& [a_step, a_levels, a_origin] = a.codebook;
    const auto& [b_step, b_levels, b_origin] = b.codebook;
    return a.form == b.form && bits(a_step) == bits(b_step) && a_origin == b_origin &&
           a_levels.data() == b_levels.data() && a_levels.size() == b_levels.size();
}

inline constexpr std::size_t kFastEntries = 32;  // this many values fit into two registers of 512 bits

// The bits of every entry's value in a block. The escape's are zero.
struct ValueTable {
    Buffer<std::uint32_t> bits;
    Buffer<bool> is_valid;
    bool are_valid = true;
    bool is_fast = false;  // for `write_values_avx512`

    // Returns false if there is no memory.
    [[nodiscard]] bool assign(const ValueBlock& block, const Alphabet& alphabet, Path path) {
        if (!bits.assign_zeros(std::max(alphabet.entries(), kFastEntries))) return false;
        if (!is_valid.assign_zeros(alphabet.entries())) return false;
        is_fast = path == Path::avx512 && alphabet.entries() <= kFastEntries;
        if (alphabet.has_escape()) is_valid.back() = true;
        for (std::size_t i = 0; i < alphabet.listed.size(); ++i) {
            is_valid[i] = value_bits(block, alphabet.listed[i], bits[i]);
            are_valid = are_valid && is_valid[i];
        }
        return true;
    }
};

template <class Value>
void write_value(Form form, std::uint32_t bits, std::uint8_t* out) {
    const auto value = static_cast<Value>(bits);
    if (std::endian::native == std::endian::big && form != Form::int32) return write_little_endian(out, value);
    std::memcpy(out, &value, sizeof value);
}

// Every `stride`-th of the entries as a value of as many bytes as `Value`.
template <class Value, class Entry>
void write_each_value(Form form, const Entry* entries, std::size_t stride, std::size_t count, const ValueTable& table,
                      std::uint8_t* out) {
    const std::uint32_t* bits = table.bits.data();
    for (std::size_t i = 0; i < count; ++i)
        write_value<Value>(form, bits[entries[i * stride]], out + i * sizeof(Value));
}

#ifdef METAQ_RANS_X86

#ifndef __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own header (GCC bug 105593)
#endif
// Entries side by side as values, by a look-up of sixteen at a time; returns how many, which leaves out the last few.
[[gnu::target("avx512f,avx512bw,avx512vl")]] inline std::size_t write_values_avx512(
    const std::uint8_t* entries, std::size_t width, std::size_t count, const ValueTable& table, std::uint8_t* out) {
    const __m512i low = _mm512_loadu_si512(table.bits.data());
    const __m512i high = _mm512_loadu_si512(table.bits.data() + 16);
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512i entry = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + i)));
        const __m512i value = _mm512_permutex2var_epi32(low, entry, high);
        if (width == 4) {
            _mm512_storeu_si512(out + 4 * i, value);
        } else if (width == 2) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), _mm512_cvtepi32_epi16(value));
        } else {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtepi32_epi8(value));
        }
    }
    return i;
}
#ifndef __clang__
#pragma GCC diagnostic pop
#endif

#endif  // METAQ_RANS_X86

template <class Entry>
void write_values(Form form, const Entry* entries, std::size_t stride, std::size_t count, const ValueTable& table,
                  std::uint8_t* out) {
#ifdef METAQ_RANS_X86
    if constexpr (sizeof(Entry) == 1) {
        if (stride == 1 && table.is_fast) {
            const std::size_t written = write_values_avx512(entries, width_bytes(form), count, table, out);
            entries += written;
            out += written * width_bytes(form);
            count -= written;
        }
    }
#endif
    switch (width_bytes(form)) {
        case 1: return write_each_value<std::uint8_t>(form, entries, stride, count, table, out);
        case 2: return write_each_value<std::uint16_t>(form, entries, stride, count, table, out);
        default: return write_each_value<std::uint32_t>(form, entries, stride, count, table, out);
    }
}

// Sees the blocks as one sequence, and writes runs of entries, at any position of it, as the values of the blocks there.
class ValueWriter {
public:
    // `path` has to be available on this machine. Returns false if there is no memory.
    [[nodiscard]] bool assign(std::span<const ValueBlock> blocks, const Alphabet& alphabet, Path path) {
        const ValueBlock* previous = nullptr;
        if (!places_.reserve(blocks.size())) return false;
        for (const ValueBlock& block : blocks) {
            if (block.size() == 0) continue;
            if (previous == nullptr || !have_same_values(*previous, block)) {
                ValueTable table;
                if (!table.assign(block, alphabet, path) || !tables_.append(std::move(table))) return false;
            }
            if (!places_.append({&block, tables_.size() - 1, size_, size_ + block.size()})) return false;
            size_ += block.size();
            previous = &block;
        }
        return true;
    }

    std::size_t size() const { return size_; }

    // Whether entries are written faster if they lie side by side.
    bool wants_neighbours() const { return !tables_.empty() && tables_.front().is_fast; }

    // The place in which a position lies.
    std::size_t find(std::size_t position) const {
        const auto is_before = [](std::size_t at, const Place& place) { return at < place.end; };
        return static_cast<std::size_t>(std::upper_bound(places_.begin(), places_.end(), position, is_before) -
                                        places_.begin());
    }

    // `place` is where the position lies, and becomes where the run ends. Returns false if an entry has no value.
    template <class Entry>
    bool write(std::size_t& place, std::size_t position, const Entry* entries, std::size_t stride,
               std::size_t count) const {
        bool are_valid = true;
        while (count > 0) {
            while (places_[place].end <= position) ++place;
            const Place& found = places_[place];
            const ValueTable& table = tables_[found.table];
            const std::size_t run = std::min(count, found.end - position);
            std::uint8_t* out = found.block->values + (position - found.begin) * width_bytes(found.block->form);
            write_values(found.block->form, entries, stride, run, table, out);
            for (std::size_t i = 0; !table.are_valid && i < run; ++i) are_valid &= table.is_valid[entries[i * stride]];
            entries += run * stride;
            position += run;
            count -= run;
        }
        return are_valid;
    }

    bool write_symbol(std::size_t position, std::int32_t symbol) const {
        const Place& place = places_[find(position)];
        std::uint32_t bits = 0;
        if (!value_bits(*place.block, symbol, bits)) return false;
        std::uint8_t* out = place.block->values + (position - place.begin) * width_bytes(place.block->form);
        switch (width_bytes(place.block->form)) {
            case 1: *out = static_cast<std::uint8_t>(bits); break;
            case 2: write_value<std::uint16_t>(place.block->form, bits, out); break;
            default: write_value<std::uint32_t>(place.block->form, bits, out);
        }
        return true;
    }

private:
    struct Place {
        const ValueBlock* block;
        std::size_t table;
        std::size_t begin;  // in the sequence
        std::size_t end;
    };

    Buffer<Place> places_;
    Buffer<ValueTable> tables_;
    std::size_t size_ = 0;
};

}  // namespace metaq::rans
