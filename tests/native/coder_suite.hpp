// What holds for every coder of blocks: round trips, and safe ends on streams that no encoder wrote.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "check.hpp"
#include "metaq/base/symbols.hpp"

namespace suite {

using metaq::Status;
using Bytes = std::vector<std::uint8_t>;
using Encode = Status (*)(std::span<const metaq::ConstBlock>, Bytes&);
using Decode = Status (*)(std::span<const std::uint8_t>, std::span<const metaq::Block>);

struct Tensor {
    std::vector<std::int32_t> symbols;
    std::size_t rows;
    std::size_t channels;
    std::size_t kernel;
};
using Tensors = std::vector<Tensor>;

template <class Symbol>
Tensor tensor(std::size_t rows, std::size_t channels, std::size_t kernel, Symbol symbol) {
    Tensor result{{}, rows, channels, kernel};
    const std::size_t size = rows * channels * kernel;
    for (std::size_t i = 0; i < size; ++i) result.symbols.push_back(static_cast<std::int32_t>(symbol(i)));
    return result;
}

struct Coder {
    Encode encode;
    Decode decode;
    bool detects_cuts;  // what is left of a stream never is one; arithmetic codes, read with zeros behind, may be
    int repeats;        // of damage to a stream

    Bytes encoded(const Tensors& tensors) const {
        std::vector<metaq::ConstBlock> blocks;
        for (const Tensor& t : tensors) blocks.push_back({t.symbols.data(), t.rows, t.channels, t.kernel});
        Bytes out;
        CHECK(encode(blocks, out) == Status::ok);
        return out;
    }

    // Decodes into `tensors`, which have the right shapes. The data is copied, so that a read behind it is caught.
    Status decoded(std::span<const std::uint8_t> data, Tensors& tensors) const {
        std::vector<metaq::Block> blocks;
        for (Tensor& t : tensors) blocks.push_back({t.symbols.data(), t.rows, t.channels, t.kernel});
        const Bytes exact(data.begin(), data.end());
        return decode(exact, blocks);
    }
};

inline std::vector<Tensors> samples() {
    constexpr std::int32_t extreme = metaq::kSymbolLimit - 1;
    check::Random random(1);
    const auto skewed = [&](std::size_t) {
        std::int32_t magnitude = 0;
        while (magnitude < 40 && random.below(3) == 0) ++magnitude;
        return random.below(2) == 0 ? magnitude : -magnitude;
    };
    const auto any = [&](std::size_t) {
        return static_cast<std::int32_t>(random.below(2 * std::uint64_t{extreme} + 1)) - extreme;
    };
    const auto some_far = [&](std::size_t i) { return i % 97 == 5 ? any(i) : skewed(i); };
    const auto powers = [&](std::size_t) { return std::countr_zero(random.next() | std::uint64_t{1} << 40); };
    std::vector<Tensors> result = {
        {},
        {tensor(0, 3, 2, skewed), tensor(3, 0, 1, skewed), tensor(0, 0, 0, skewed)},
        {tensor(1, 1, 1, [](std::size_t) { return 0; })},
        {tensor(1, 1, 1, [](std::size_t) { return extreme; }), tensor(1, 1, 1, [](std::size_t) { return -extreme; })},
        {tensor(40, 30, 9, [](std::size_t) { return -7; })},
        {tensor(1000, 1100, 1, [](std::size_t) { return 3; }), tensor(4, 4, 4, skewed)},
        {tensor(2, 1, 1, [](std::size_t i) { return i == 0 ? -extreme : extreme; })},
        {tensor(60, 20, 9, skewed), tensor(0, 1, 1, skewed), tensor(7, 1, 1, any), tensor(30, 50, 1, skewed)},
        {tensor(50, 40, 5, some_far)},
        {tensor(100, 100, 1, [](std::size_t i) { return static_cast<std::int32_t>(i) - 5000; })},
        {tensor(100, 100, 1, any)},
        {tensor(100, 300, 2, powers)},
        {tensor(250, 256, 1, [&](std::size_t) { return static_cast<std::int32_t>(random.below(6000)); })},
    };
    return result;
}

// Shapes as given, symbols such that whatever decoding leaves in place shows.
inline Tensors blank(const Tensors& tensors) {
    Tensors result = tensors;
    for (Tensor& t : result) t.symbols.assign(t.symbols.size(), -123456789);
    return result;
}

inline bool are_equal(const Tensors& a, const Tensors& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i].symbols != b[i].symbols) return false;
    }
    return a.size() == b.size();
}

inline void round_trips(const Coder& coder) {
    for (const Tensors& tensors : samples()) {
        const Bytes data = coder.encoded(tensors);
        Tensors result = blank(tensors);
        CHECK(coder.decoded(data, result) == Status::ok);
        CHECK(are_equal(result, tensors));
        CHECK(coder.encoded(tensors) == data);

        Bytes longer = data;
        longer.push_back(0);
        CHECK(coder.decoded(longer, result) != Status::ok);
    }
}

// Appends, whatever the vector holds.
inline void appends(const Coder& coder) {
    const Tensors tensors = {tensor(5, 5, 1, [](std::size_t i) { return i % 3; })};
    const std::vector<metaq::ConstBlock> blocks = {{tensors[0].symbols.data(), 5, 5, 1}};
    Bytes out = {255, 255};
    CHECK(coder.encode(blocks, out) == Status::ok);
    Bytes expected = {255, 255};
    for (const std::uint8_t byte : coder.encoded(tensors)) expected.push_back(byte);
    CHECK(out == expected);
}

inline void survives_damage(const Coder& coder) {
    check::Random random(2);
    for (const Tensors& tensors : samples()) {
        const Bytes data = coder.encoded(tensors);
        if (data.empty()) continue;
        Tensors result = blank(tensors);
        for (int repeat = 0; repeat < coder.repeats; ++repeat) {
            Bytes damaged = data;
            for (std::uint64_t i = random.below(4); i < 4; ++i) {
                // Mostly at the start, where the tables are.
                const std::uint64_t any = random.below(damaged.size());
                const std::uint64_t place = random.below(2) == 0 ? any : any % 40;
                damaged[place] ^= static_cast<std::uint8_t>(1u << random.below(8));
            }
            (void)coder.decoded(damaged, result);
            for (std::uint8_t& byte : damaged) byte = static_cast<std::uint8_t>(random.next());
            (void)coder.decoded(damaged, result);
            const std::span cut(data.data(), random.below(data.size()));
            const Status status = coder.decoded(cut, result);
            CHECK(status != Status::ok || !coder.detects_cuts);
        }
    }
}

// Symbols from any accepted stream are symbols.
inline void stays_in_range(const Coder& coder) {
    check::Random random(3);
    for (int repeat = 0; repeat < 500 * coder.repeats; ++repeat) {
        Bytes data(1 + random.below(24));
        for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random.next() & random.next());
        const auto side = [&] { return static_cast<std::size_t>(1 + random.below(4)); };
        Tensors result = {tensor(side(), side(), side(), [](std::size_t) { return 0; })};
        if (coder.decoded(data, result) != Status::ok) continue;
        for (const std::int32_t symbol : result[0].symbols) {
            CHECK(-metaq::kSymbolLimit < symbol && symbol < metaq::kSymbolLimit);
        }
    }
}

}  // namespace suite
