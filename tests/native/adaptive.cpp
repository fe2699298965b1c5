// The adaptive coder's tables and lanes, its streams' bytes, and streams that no encoder writes. Built twice, the second
// time without SIMD.
#include "metaq/adaptive/coder.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <utility>

#include "check.hpp"
#include "coder_suite.hpp"

namespace {

using namespace metaq;
using adaptive::BlockHeader;
using adaptive::kEntries;
using adaptive::kLanes;
using adaptive::kLeastState;
using adaptive::kOne;
using adaptive::kShareBits;
using adaptive::Table;

// No share is empty, they lie side by side from 0 to 2^15, and both ends of each are found.
bool is_sound(const Table& table) {
    std::uint32_t end = 0;
    for (std::size_t entry = 0; entry < kEntries; ++entry) {
        if (table.start(entry) != end || table.share(entry) == 0 || table.share(entry) > kOne) return false;
        end += table.share(entry);
        if (table.find(table.start(entry)) != entry || table.find(end - 1) != entry) return false;
    }
    return end == kOne;
}

std::int32_t wrapped(std::int64_t value) { return static_cast<std::int32_t>(static_cast<std::uint64_t>(value)); }

// Notes steps as the encoder does.
struct Recorder {
    struct Step {
        std::size_t lane;
        std::uint64_t start, share;
    };
    std::vector<Step> steps;

    std::size_t code(std::size_t lane, Table& table, std::size_t entry) {
        steps.push_back({lane, table.start(entry), table.share(entry)});
        table.count(entry);
        return entry;
    }
    std::uint32_t bits(std::size_t lane, std::uint32_t value, unsigned count) {
        steps.push_back({lane, value << (kShareBits - count), kOne >> count});
        return value;
    }
    Status status() const { return Status::ok; }
};

// How a stream differs from the encoder's.
struct Difference {
    std::uint64_t last_state = kLeastState;
    unsigned limit =
        63 - kShareBits;  // the first steps, as many as lanes, put a word out where a state is 2^limit shares or more
};

suite::Bytes stream(const ConstBlock& block, const BlockHeader& header, const Difference& difference) {
    suite::Bytes bytes;
    BitWriter writer(bytes);
    adaptive::write_header(writer, header);
    writer.finish();
    Recorder recorder;
    const auto state = std::make_unique<adaptive::State>();
    CHECK(adaptive::code_block(*state, recorder, block, header) == Status::ok);

    std::array<std::uint64_t, kLanes> states;
    states.fill(kLeastState);
    states[0] = difference.last_state;
    std::vector<std::uint64_t> words;
    for (std::size_t i = recorder.steps.size(); i-- > 0;) {
        const auto [lane, start, share] = recorder.steps[i];
        std::uint64_t& at_hand = states[lane];
        const unsigned limit = i < kLanes ? difference.limit : 63 - kShareBits;
        if (at_hand >> limit >= share) {
            words.push_back(at_hand & 0xffffffffu);
            at_hand >>= 32;
        }
        at_hand = (at_hand / share << kShareBits) + at_hand % share + start;
    }
    const auto put = [&](std::uint64_t value, int size) {
        for (int i = 0; i < size; ++i) bytes.push_back(static_cast<std::uint8_t>(value >> 8 * i));
    };
    for (const std::uint64_t each : states) put(each, 8);
    for (std::size_t i = words.size(); i-- > 0;) put(words[i], 4);
    return bytes;
}

constexpr std::size_t kRows = 4, kChannels = 5, kKernel = 3;
constexpr std::size_t kSize = kRows * kChannels * kKernel;

ConstBlock block_of(const std::vector<std::int32_t>& symbols) { return {symbols.data(), kRows, kChannels, kKernel}; }

Status decoded(const suite::Bytes& bytes, std::vector<std::int32_t>& symbols) {
    symbols.assign(kSize, -1);
    const std::vector<Block> blocks{{symbols.data(), kRows, kChannels, kKernel}};
    return adaptive::decode(bytes, blocks);
}

Status decoded(const suite::Bytes& bytes) {
    std::vector<std::int32_t> symbols;
    return decoded(bytes, symbols);
}

// Symbols up to a limit, and the limit once, so that it is not by accident that they are a machine's path.
std::vector<std::int32_t> random_symbols(std::uint64_t seed, std::int32_t limit) {
    check::Random random(seed);
    std::vector<std::int32_t> symbols{limit | 1};
    while (symbols.size() < kSize)
        symbols.push_back(static_cast<std::int32_t>(random.below(2u * static_cast<unsigned>(limit) + 1)) - limit);
    return symbols;
}

}  // namespace

TEST(adaptive_shares_add_up_after_any_counting) {
    check::Random random(1);
    const auto tables = std::make_unique<adaptive::Tables>();
    const auto follow = [&](Table table, std::uint64_t entries) {
        CHECK(is_sound(table));
        for (int step = 0; step < 6000; ++step) {
            table.count(random.below(entries));
            if (step % 16 == 0 && !is_sound(table)) return CHECK(!"a table is sound");
        }
    };
    for (std::uint64_t entries = 1; entries <= kEntries; ++entries) {
        for (const Table& table : {tables->cells[0].front(), tables->cells[1].back(), tables->far[2]})
            follow(table, entries);
    }
    for (const auto& set : tables->cells) {
        for (const Table& table : set) CHECK(is_sound(table));
    }
}

// Each against the formulas of docs/format.md, on numbers as large as they may be.
TEST(adaptive_lanes_do_what_four_numbers_do) {
    check::Random random(2);
    const auto within = [&](std::int64_t limit) {
        const auto drawn = static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(limit) + 1)) - limit;
        return drawn >> random.below(12);
    };
    const auto any = [&] {
        return static_cast<std::int32_t>(static_cast<std::uint32_t>(random.next())) >> random.below(32);
    };
    for (int repeat = 0; repeat < 2000; ++repeat) {
        std::array<adaptive::Int16Lanes, adaptive::kTaps + 1> values;
        for (adaptive::Int16Lanes& each : values) {
            for (std::int16_t& value : each) value = static_cast<std::int16_t>(within(adaptive::kValueLimit));
        }
        adaptive::Int16Lanes misses;
        for (std::int16_t& miss : misses) miss = static_cast<std::int16_t>(within(adaptive::kMissLimit));
        adaptive::Weights weights;
        for (std::int32_t& weight : weights.exact) weight = any();
        const adaptive::Weights before = weights;
        const int shift = static_cast<int>(random.below(27));
        adaptive::learn(weights, values[0], &values[1], misses, shift);
        for (std::size_t tap = 0; tap < adaptive::kTaps; ++tap) {
            std::int64_t sum = 0;
            for (std::size_t lane = 0; lane < kLanes; ++lane) sum += std::int64_t{values[tap][lane]} * misses[lane];
            CHECK(weights.exact[tap] == wrapped(before.exact[tap] + (sum >> shift)));
            CHECK(weights.used[tap] ==
                  std::clamp<std::int32_t>(weights.exact[tap] >> adaptive::kUsedShift, INT16_MIN, INT16_MAX));
        }
        const adaptive::Int32Lanes sums = adaptive::weighted(values[0], &values[1], weights, 5);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            std::int64_t sum = 0;
            for (std::size_t tap = 0; tap < adaptive::kTaps; ++tap)
                sum += std::int64_t{values[tap][lane]} * weights.used[tap];
            CHECK(sums[lane] == sum >> 5);
        }

        adaptive::Int32Lanes levels, numbers, scales;
        for (std::int32_t& level : levels) level = any();
        const std::int32_t other = any();
        const adaptive::Int16Lanes shortened = adaptive::shortened(levels, other);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const std::int32_t level = wrapped(std::int64_t{levels[lane]} + other) >> adaptive::kLevelShift;
            CHECK(shortened[lane] == std::clamp(level, 0, adaptive::kLevels - 1));
            scales[lane] = static_cast<std::int32_t>(adaptive::kScales[static_cast<std::size_t>(shortened[lane])]);
            numbers[lane] = any();
        }
        const adaptive::Int32Lanes turned = adaptive::turned(levels, sums), more = adaptive::plus(levels, other);
        const adaptive::Int32Lanes both = adaptive::plus(levels, numbers);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            CHECK(both[lane] == wrapped(std::int64_t{levels[lane]} + numbers[lane]));
            CHECK(turned[lane] == wrapped(sums[lane] < 0 ? -std::int64_t{levels[lane]} : levels[lane]));
            CHECK(more[lane] == wrapped(std::int64_t{levels[lane]} + other));
        }
        const auto limit = static_cast<std::int32_t>(random.below(1u << 31) | 1);
        CHECK(adaptive::are_within(levels, limit) == std::all_of(levels.begin(), levels.end(), [&](std::int64_t level) {
            return -limit < level && level < limit;
        }));
        const auto least = static_cast<std::int16_t>(random.below(adaptive::kLevels));
        CHECK(adaptive::all_below(shortened, least) ==
              std::all_of(shortened.begin(), shortened.end(), [&](int level) { return level < least; }));

        std::array<adaptive::Int16Lanes, 11> excess;
        for (adaptive::Int16Lanes& each : excess) {
            for (std::int16_t& value : each)
                value = static_cast<std::int16_t>(std::clamp<std::int64_t>(within(700), -256, 700));
        }
        const std::size_t size = random.below(excess.size() + 1);
        const auto rate = static_cast<int>(random.below(4096));
        std::array<std::int32_t, excess.size()> learned;
        for (std::int32_t& level : learned) level = any();
        const auto unlearned = learned;
        adaptive::learn(learned.data(), excess.data(), size, rate);
        std::array<std::int64_t, kLanes> of_lanes{};
        for (std::size_t i = 0; i < excess.size(); ++i) {
            std::int64_t sum = 0;
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                sum += excess[i][lane];
                if (i < size) of_lanes[lane] += excess[i][lane];
            }
            CHECK(learned[i] == (i < size ? wrapped(unlearned[i] + (sum * rate >> 8)) : unlearned[i]));
        }
        CHECK(std::ranges::equal(adaptive::sums_of_lanes(excess.data(), size), of_lanes));

        adaptive::Int32Lanes recent;
        for (std::int32_t& level : recent) level = any() >> 2;
        const adaptive::Int32Lanes earlier = recent;
        adaptive::follow(recent, excess[0], 32, 3);
        for (std::size_t lane = 0; lane < kLanes; ++lane)
            CHECK(recent[lane] == earlier[lane] + 32 * excess[0][lane] - (earlier[lane] >> 3));

        const int unit = static_cast<int>(random.below(9));
        adaptive::Int16Lanes mask;
        for (std::int16_t& each : mask) each = random.below(4) == 0 ? 0 : -1;
        const adaptive::Noted noted = adaptive::noted(numbers, unit, sums, scales, 27 - unit, mask);
        std::int64_t energy = 0;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const std::int64_t known = mask[lane] * -std::clamp(numbers[lane] >> unit, -4095, 4095);
            const std::int64_t miss = mask[lane] * -std::clamp<std::int64_t>(256 * known - sums[lane], -32767, 32767);
            const std::int64_t magnitude = std::min<std::int64_t>(32767, (miss < 0 ? -miss : miss) + 64);
            const std::int64_t times = magnitude * static_cast<std::uint32_t>(scales[lane]) >> (27 - unit);
            energy += known * known;
            CHECK(noted.known[lane] == known);
            CHECK(noted.misses[lane] == miss);
            CHECK(noted.excess[lane] == mask[lane] * -std::min<std::int64_t>(times - 256, 700));
        }
        CHECK(noted.energy == energy);
    }
}

// The tables of four lanes at once are those of each.
TEST(adaptive_tables_of_lanes) {
    check::Random random(5);
    const auto tables = std::make_unique<adaptive::Tables>();
    for (int repeat = 0; repeat < 20000; ++repeat) {
        adaptive::Expected expected;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            expected.level[lane] = static_cast<std::int16_t>(random.below(adaptive::level_of_cells(0)));
            expected.scale[lane] =
                static_cast<std::int32_t>(adaptive::kScales[static_cast<std::size_t>(expected.level[lane])]);
            expected.value[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(random.next())) >>
                                   random.below(32);
        }
        const std::array<std::uint32_t, kLanes> near = adaptive::near_tables(expected);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const adaptive::Place place = adaptive::place_of(*tables, 0, expected, lane);
            CHECK(place.cells == &tables->cells[0][near[lane]]);
            CHECK(place.shift == 0);
        }
    }
}

// FNV-1a of all samples' streams: the same on every machine, with SIMD or without.
TEST(adaptive_streams_are_the_same_everywhere) {
    constexpr suite::Coder coder{&adaptive::encode, &adaptive::decode, true, 1};
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const suite::Tensors& tensors : suite::samples()) {
        const suite::Bytes bytes = coder.encoded(tensors);
        for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
        suite::Tensors result = suite::blank(tensors);
        CHECK(coder.decoded(bytes, result) == Status::ok);
        CHECK(suite::are_equal(result, tensors));
    }
    CHECK(hash == 0xbbb4b9af3f80aa96u);
}

TEST(adaptive_accepts_one_stream_of_its_symbols) {
    int late = 0, early = 0;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        const auto symbols = random_symbols(seed, 1 << seed % 28);
        const BlockHeader header{0, false, 0, seed % 3 == 0};
        const suite::Bytes canonical = stream(block_of(symbols), header, {});
        std::vector<std::int32_t> found;
        CHECK(decoded(canonical, found) == Status::ok);
        CHECK(found == symbols);
        const auto differs = [&](const Difference& difference) {
            const suite::Bytes other = stream(block_of(symbols), header, difference);
            CHECK((decoded(other) == Status::ok) == (other == canonical));
            return other != canonical;
        };
        CHECK(differs({.last_state = kLeastState + 1}));
        CHECK(differs({.last_state = kLeastState << 1}));
        late += differs({.limit = 64 - kShareBits});
        early += differs({.limit = 0});
    }
    CHECK(late > 0 && early > 0);
}

TEST(adaptive_writes_the_stream_that_is_accepted) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
        const auto symbols = random_symbols(seed, 1 << seed);
        const std::vector<ConstBlock> blocks{block_of(symbols)};
        suite::Bytes bytes;
        CHECK(adaptive::encode(blocks, bytes) == Status::ok);
        CHECK(bytes == stream(blocks[0], adaptive::make_header(blocks[0]), {}));
    }
}

TEST(adaptive_ends_where_it_began) {
    for (const std::uint64_t state : {kLeastState, kLeastState + 1, kLeastState << 20, (kLeastState << 32) - 1}) {
        suite::Bytes bytes{0};  // symbols are free, less 0
        for (std::size_t i = 0; i < 8 * kLanes; ++i) bytes.push_back(static_cast<std::uint8_t>(state >> 8 * (i % 8)));
        CHECK(decoded(bytes) != Status::ok);
        bytes.resize(400, 1);
        CHECK(decoded(bytes) == Status::corrupt);
    }
}

TEST(adaptive_knows_the_machines) {
    check::Random random(4);
    for (std::size_t machine = 1; machine <= dependent::kMachines; ++machine) {
        std::vector<std::int32_t> symbols;
        for (std::size_t y = 0; y < kRows; ++y) {
            adaptive::DependentSymbols path{&adaptive::kMoves[machine - 1]};
            for (std::size_t i = 0; i < kSize / kRows; ++i) {
                const auto index = static_cast<std::int64_t>(random.below(19)) - 10;
                adaptive::DependentSymbols after = path;
                symbols.push_back(static_cast<std::int32_t>(after.take(index)));
                CHECK(path.index(symbols.back()) == index);
                if (index >= -adaptive::kCentre) {  // an entry stands for it
                    adaptive::DependentSymbols same = path;
                    CHECK(same.take_entry(static_cast<std::size_t>(index + adaptive::kCentre)) == symbols.back());
                    CHECK(same.state == after.state);
                }
                path = after;
            }
        }
        const ConstBlock block = block_of(symbols);
        CHECK(adaptive::make_header(block).machine == machine);
        for (const std::size_t named : {std::size_t{0}, machine}) {  // an encoder need not see what they are
            std::vector<std::int32_t> found;
            CHECK(decoded(stream(block, {0, false, named}, {}), found) == Status::ok);
            CHECK(found == symbols);
        }
    }
}

TEST(adaptive_headers) {
    const auto of_constant = [](std::int32_t centre, std::uint32_t padding) {
        suite::Bytes bytes;
        BitWriter writer(bytes);
        adaptive::write_header(writer, {centre, true, 0});
        writer.finish();
        bytes.back() = static_cast<std::uint8_t>(bytes.back() | padding);
        return decoded(bytes);
    };
    CHECK(of_constant(7, 0) == Status::ok);
    CHECK(of_constant(kSymbolLimit - 1, 0) == Status::ok);
    CHECK(of_constant(1 - kSymbolLimit, 0) == Status::ok);
    CHECK(of_constant(kSymbolLimit, 0) == Status::corrupt);
    CHECK(of_constant(-kSymbolLimit, 0) == Status::corrupt);
    CHECK(of_constant(std::numeric_limits<std::int32_t>::min(), 0) == Status::corrupt);
    CHECK(of_constant(0, 1) == Status::corrupt);
    CHECK(decoded({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) == Status::corrupt);
    CHECK(decoded({}) != Status::ok);
    CHECK(decoded({0xc0}) == Status::ok);
    CHECK(decoded({0xc0, 0}) == Status::corrupt);
}
