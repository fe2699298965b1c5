// What only the rANS coder has: several paths of decoding, values, classes of rows and contexts.
#include "metaq/base/floats.hpp"
#include "metaq/format/plane_splitting.hpp"
#include "metaq/format/planes.hpp"
#include "metaq/rans/coder.hpp"

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "coder_suite.hpp"

namespace {

namespace rans = metaq::rans;
using metaq::Status;
using suite::Bytes;
using suite::Tensor;
using suite::Tensors;

constexpr rans::Path kPaths[] = {rans::Path::portable, rans::Path::avx2, rans::Path::avx512, rans::Path::neon,
                                 rans::Path::best};
constexpr suite::Coder coder{&rans::encode, &rans::decode, true, 1};

// Large enough for 32 lanes. Rows differ in scale; neighbours do too if `is_bursty`.
Tensor weights(std::size_t rows, std::size_t columns, bool is_bursty, std::uint64_t seed) {
    check::Random random(seed);
    std::int64_t previous = 0;
    return suite::tensor(rows, columns, 1, [&](std::size_t i) {
        const std::uint64_t scale = 2 + (i / columns) % 5 * 3;
        const std::uint64_t spread = is_bursty && previous * previous < 9 ? 2 : scale;
        previous = 0;
        for (int draw = 0; draw < 4; ++draw) previous += static_cast<std::int64_t>(random.below(2 * spread + 1));
        previous -= static_cast<std::int64_t>(4 * spread);
        return i % 4001 == 17 ? static_cast<std::int64_t>(random.below(1u << 20)) : previous;
    });
}

std::vector<Tensors> samples() {
    std::vector<Tensors> result = suite::samples();
    result.push_back({weights(300, 700, false, 1), weights(1000, 3, false, 2), weights(900, 500, false, 3)});
    result.push_back({weights(300, 701, true, 4), weights(31, 1, true, 5)});
    result.push_back({suite::tensor(400, 500, 1, [](std::size_t i) { return i / 500 % 7; })});
    return result;
}

Status decode(std::span<const std::uint8_t> data, Tensors& tensors, rans::Path path) {
    std::vector<metaq::Block> blocks;
    for (Tensor& t : tensors) blocks.push_back({t.symbols.data(), t.rows, t.channels, t.kernel});
    const Bytes exact(data.begin(), data.end());
    return rans::decode(exact, blocks, path);
}

rans::Header header_of(const Tensors& tensors, const Bytes& data) {
    std::vector<rans::ValueBlock> blocks;
    for (const Tensor& t : tensors) blocks.push_back({nullptr, t.rows, t.channels, t.kernel, rans::Form::int32, {}});
    rans::Stream stream;
    CHECK(rans::open(data, blocks, stream) == Status::ok);
    return std::move(stream.header);
}

}  // namespace

TEST(rans_paths_agree) {
    for (const Tensors& tensors : samples()) {
        const Bytes data = coder.encoded(tensors);
        for (const rans::Path path : kPaths) {
            Tensors result = suite::blank(tensors);
            CHECK(decode(data, result, path) == Status::ok);
            CHECK(suite::are_equal(result, tensors));
        }
    }
}

TEST(rans_paths_agree_on_damage) {
    check::Random random(9);
    for (const Tensors& tensors : samples()) {
        const Bytes data = coder.encoded(tensors);
        for (int repeat = 0; repeat < 20 && !data.empty(); ++repeat) {
            Bytes damaged = data;
            const std::uint64_t place = random.below(data.size());
            damaged[random.below(2) == 0 ? place : place % 60] ^= static_cast<std::uint8_t>(1u << random.below(8));
            if (repeat % 4 == 0) damaged.resize(random.below(data.size()));
            Tensors portable = suite::blank(tensors);
            const Status expected = decode(damaged, portable, rans::Path::portable);
            for (const rans::Path path : kPaths) {
                Tensors result = suite::blank(tensors);
                CHECK(decode(damaged, result, path) == expected);
                CHECK(expected != Status::ok || suite::are_equal(result, portable));
            }
        }
    }
}

TEST(rans_chooses_classes_contexts_and_lanes) {
    const Tensors rows = {weights(300, 700, false, 1)};
    const Bytes by_row = coder.encoded(rows);
    CHECK(header_of(rows, by_row).classes >= 4);
    CHECK(!header_of(rows, by_row).contexts.are_used);
    CHECK(header_of(rows, by_row).lane_width == rans::kLaneWidthLimit);

    const Tensors bursts = {weights(300, 701, true, 4)};
    CHECK(header_of(bursts, coder.encoded(bursts)).contexts.are_used);

    const Tensors small = {suite::tensor(4, 4, 1, [](std::size_t i) { return i % 3; })};
    CHECK(header_of(small, coder.encoded(small)).lane_width == 0);
    CHECK(header_of(small, coder.encoded(small)).classes == 1);
}

// Whatever the machine and the number of classes, so that all write the same bytes.
TEST(rans_units_find_the_first_of_the_cheapest_classes) {
    check::Random random(6);
    const std::size_t keys = 40;
    std::vector<std::uint16_t> of_symbols(9000);
    for (std::uint16_t& key : of_symbols) key = static_cast<std::uint16_t>(random.below(keys));
    for (const std::size_t size : {std::size_t{30}, std::size_t{3000}}) {
        std::vector<std::size_t> ends;
        for (std::size_t end = size; end <= of_symbols.size(); end += size) ends.push_back(end);
        const rans::UnitCounts units(keys, ends, 1, [&](std::size_t begin, std::size_t end) {
            return std::span<const std::uint16_t>(of_symbols).subspan(begin, end - begin);
        });
        for (unsigned count = 1; count < 48; ++count) {
            const std::size_t stride = rans::cost_stride(count);
            std::vector<std::uint32_t> costs(keys * stride, 0);
            for (std::size_t i = 0; i < costs.size(); ++i)
                costs[i] = i % stride == count / 2 ? costs[i - count / 2]
                                                   : static_cast<std::uint32_t>(random.below(1u << 22));
            const rans::KeyCosts of_keys{costs, stride, count, 1u << 22};
            std::vector<std::uint8_t> expected(units.size()), found(units.size());
            rans::assign_any(units, of_keys, expected);
            rans::assign_units(units, of_keys, found);
            CHECK(found == expected);
            rans::assign_on(units, of_keys, found);
            CHECK(found == expected);
        }
    }
}

TEST(rans_encodes_bytes_as_other_symbols) {
    const Tensors tensors = {
        suite::tensor(90, 301, 1, [](std::size_t i) { return static_cast<int>(i * i % 251) - 128; }),
        suite::tensor(1, 1, 1, [](std::size_t) { return 127; })};
    std::vector<std::vector<std::int8_t>> bytes;
    std::vector<metaq::BasicBlock<const std::int8_t>> blocks;
    for (const Tensor& t : tensors) bytes.emplace_back(t.symbols.begin(), t.symbols.end());
    for (std::size_t i = 0; i < tensors.size(); ++i)
        blocks.push_back({bytes[i].data(), tensors[i].rows, tensors[i].channels, tensors[i].kernel});
    Bytes out;
    CHECK(rans::encode_any<std::int8_t>(blocks, out) == Status::ok);
    CHECK(out == coder.encoded(tensors));
}

TEST(rans_shares_tables_between_blocks) {
    const Tensors one = {weights(64, 100, false, 1)};
    Tensors many;
    for (int i = 0; i < 20; ++i) many.push_back(one[0]);
    CHECK(coder.encoded(many).size() < 19 * coder.encoded(one).size());
}

TEST(rans_decodes_values) {
    const Tensors tensors = {weights(300, 700, false, 1), suite::tensor(9, 7, 1, [](std::size_t i) { return i % 5; })};
    const Bytes data = coder.encoded(tensors);
    const std::vector<float> levels = {-2.5f, -1.0f, 0.0f, 0.3f, 7.0f, 8.0f};
    for (const rans::Path path : kPaths) {
        std::vector<float> scaled(tensors[0].symbols.size());
        std::vector<std::uint16_t> halves(tensors[1].symbols.size());
        std::vector<rans::ValueBlock> blocks = {
            {reinterpret_cast<std::uint8_t*>(scaled.data()), 300, 700, 1, rans::Form::float32, {0.1f, {}, 0}},
            {reinterpret_cast<std::uint8_t*>(halves.data()), 9, 7, 1, rans::Form::bfloat16, {1, levels, 1}}};
        CHECK(rans::decode_values(data, blocks, path) == Status::ok);
        for (std::size_t i = 0; i < scaled.size(); ++i) {
            CHECK(scaled[i] == 0.1f * static_cast<float>(tensors[0].symbols[i]));
        }
        for (std::size_t i = 0; i < halves.size(); ++i) {
            const auto symbol = static_cast<std::size_t>(tensors[1].symbols[i]);
            CHECK(halves[i] == metaq::to_bfloat16(std::bit_cast<std::uint32_t>(levels[symbol + 1])));
        }

        // A symbol without a value, listed or escaped, makes the stream corrupt where it occurs, and there only.
        blocks[1].codebook.origin = 2;
        CHECK(rans::decode_values(data, blocks, path) == Status::corrupt);
        std::vector<std::int8_t> bytes(scaled.size());
        blocks[1].codebook.origin = 1;
        blocks[0].form = rans::Form::int8;
        blocks[0].values = reinterpret_cast<std::uint8_t*>(bytes.data());
        CHECK(rans::decode_values(data, blocks, path) == Status::corrupt);
    }
}

TEST(rans_decodes_int8) {
    const Tensors tensors = {suite::tensor(100, 256, 1, [](std::size_t i) { return static_cast<int>(i % 256) - 128; })};
    const Bytes data = coder.encoded(tensors);
    std::vector<std::int8_t> bytes(tensors[0].symbols.size());
    const std::vector<rans::ValueBlock> blocks = {
        {reinterpret_cast<std::uint8_t*>(bytes.data()), 100, 256, 1, rans::Form::int8, {}}};
    CHECK(rans::decode_values(data, blocks) == Status::ok);
    for (std::size_t i = 0; i < bytes.size(); ++i) CHECK(bytes[i] == tensors[0].symbols[i]);
}

TEST(rounds_to_bfloat16) {
    CHECK(metaq::to_bfloat16(0x3f800000u) == 0x3f80);
    CHECK(metaq::to_bfloat16(0x3f808000u) == 0x3f80);  // half: to even
    CHECK(metaq::to_bfloat16(0x3f818000u) == 0x3f82);
    CHECK(metaq::to_bfloat16(0x3f808001u) == 0x3f81);
    CHECK(metaq::to_bfloat16(0x7f7fffffu) == 0x7f80);
    CHECK(metaq::to_bfloat16(0x80000000u) == 0x8000);
}

TEST(rounds_to_float16) {
    CHECK(metaq::to_float16(0x3f800000u) == 0x3c00);
    CHECK(metaq::to_float16(0x3f801000u) == 0x3c00);  // half: to even
    CHECK(metaq::to_float16(0x3f803000u) == 0x3c02);
    CHECK(metaq::to_float16(0x477ff000u) == 0x7c00);  // 65520
    CHECK(metaq::to_float16(0x477fefffu) == 0x7bff);
    CHECK(metaq::to_float16(0x33000000u) == 0x0000);  // half of the least: to even
    CHECK(metaq::to_float16(0xb3000001u) == 0x8001);
    CHECK(metaq::to_float16(0xff800000u) == 0xfc00);
}

TEST(planes_join_to_elements) {
    const std::vector<std::uint8_t> high(77, 0x7f ^ 0x80), low(77, 0x03 ^ 0x80);
    std::vector<std::uint8_t> out(2 * high.size() + 1, 9);
    metaq::planes::join({high.data(), low.data()}, 2, high.size(), true, out.data());
    for (std::size_t i = 0; i < high.size(); ++i) CHECK(out[2 * i] == 0x81 && out[2 * i + 1] == 0xbf);
    CHECK(out.back() == 9);
    for (unsigned plane = 0; plane < 2; ++plane) {
        std::vector<std::int8_t> split(high.size());
        metaq::planes::split(out.data(), 2, split.size(), true, plane, split.data());
        for (const std::int8_t symbol : split) CHECK(static_cast<std::uint8_t>(symbol) == (plane == 0 ? high : low)[0]);
    }
    metaq::planes::join({high.data(), low.data()}, 2, high.size(), false, out.data());
    for (std::size_t i = 0; i < high.size(); ++i) CHECK(out[2 * i] == 0x03 && out[2 * i + 1] == 0x7f);
}
