// The mixing coder's choice of a rate, and the streams that name one which is not.
#include "metaq/mixing/coder.hpp"

#include <map>

#include "check.hpp"
#include "coder_suite.hpp"
#include "metaq/mixing/packed_counters.hpp"
#include "metaq/mixing/packed_mixers.hpp"

namespace {

using namespace metaq;
using mixing::BlockHeader;

// Where few weights are left, most rows and columns have none.
std::vector<std::int32_t> sparse(std::size_t rows, std::size_t columns, std::uint64_t seed) {
    check::Random random(seed);
    std::vector<std::int32_t> symbols;
    for (std::size_t i = 0; i < rows * columns; ++i) {
        const bool is_used = i / columns % 7 == 0 && i % columns % 5 == 0;
        symbols.push_back(is_used ? static_cast<std::int32_t>(random.below(5)) - 2 : 0);
    }
    return symbols;
}

suite::Bytes of_rate(std::span<const ConstBlock> blocks, std::size_t rate) {
    std::vector<BlockHeader> headers;
    for (const ConstBlock& block : blocks) headers.push_back(mixing::make_header(block));
    suite::Bytes bytes;
    CHECK(mixing::encode_at_rate(blocks, headers, rate, bytes) == Status::ok);
    return bytes;
}

// A stream of one block of eight zeros with this header.
Status decoded(const BlockHeader& header) {
    suite::Bytes bytes;
    BinaryEncoder coder(bytes);
    const auto state = mixing::make_state(8);
    state->model.set_mixer_rate(header.rate);
    mixing::code_header(state->model, coder, header);
    const std::vector<std::int32_t> zeros(8, header.centre);
    const ConstBlock block{zeros.data(), 2, 4, 1};
    if (!header.constant)
        CHECK(mixing::code_symbols(*state, coder, block, header.centre, mixing::FreeSymbols{}) == Status::ok);
    coder.finish(1);
    std::vector<std::int32_t> symbols(8);
    const std::vector<Block> blocks{{symbols.data(), 2, 4, 1}};
    return mixing::decode(bytes, blocks);
}

// A stream of two constant blocks, whose headers name these rates.
Status decoded(std::size_t first_rate, std::size_t second_rate) {
    suite::Bytes bytes;
    BinaryEncoder coder(bytes);
    const auto state = mixing::make_state(8);
    mixing::code_header(state->model, coder, {3, true, first_rate, 0});
    mixing::code_header(state->model, coder, {3, true, second_rate, 0});
    coder.finish(1);
    std::vector<std::int32_t> symbols(2);
    const std::vector<Block> blocks{{&symbols[0], 1, 1, 1}, {&symbols[1], 1, 1, 1}};
    return mixing::decode(bytes, blocks);
}

}  // namespace

TEST(mixing_streams_do_not_depend_on_when_counters_are_made) {
    const auto symbols = sparse(300, 200, 3);
    const ConstBlock block{symbols.data(), 300, 200, 1};
    const mixing::BlockHeader header = mixing::make_header(block);
    suite::Bytes streams[2];
    for (std::size_t i = 0; i < 2; ++i) {
        const auto state = mixing::make_state(i << 20);
        CHECK(state != nullptr);
        BinaryEncoder coder(streams[i]);
        mixing::code_header(state->model, coder, header);
        CHECK(mixing::code_block(*state, coder, block, header) == Status::ok);
        coder.finish(1);
    }
    CHECK(streams[0].size() > 100);
    CHECK(streams[0] == streams[1]);
}

TEST(mixing_takes_the_rate_of_the_shortest_stream) {
    const auto first = sparse(300, 200, 1), second = sparse(60, 300, 2);
    const std::vector<ConstBlock> blocks{{first.data(), 300, 200, 1}, {second.data(), 60, 300, 1}};
    suite::Bytes chosen;
    CHECK(mixing::encode(blocks, chosen) == Status::ok);
    std::vector<std::int32_t> found(first.size() + second.size());
    const std::vector<Block> filled{{found.data(), 300, 200, 1}, {found.data() + first.size(), 60, 300, 1}};
    for (std::size_t rate = 0; rate < mixing::kMixerRates.size(); ++rate) {
        const suite::Bytes bytes = of_rate(blocks, rate);
        CHECK(chosen.size() <= bytes.size());
        CHECK(mixing::decode(bytes, filled) == Status::ok);
        CHECK(std::equal(first.begin(), first.end(), found.begin()));
        CHECK(std::equal(second.begin(), second.end(), found.begin() + static_cast<std::ptrdiff_t>(first.size())));
    }
    CHECK(chosen.size() < of_rate(blocks, 0).size());
}

TEST(mixing_refuses_rates_that_are_not) {
    for (std::size_t rate = 0; rate < mixing::kMixerRates.size(); ++rate) CHECK(decoded(rate, 0) == Status::ok);
    CHECK(decoded(0, mixing::kMixerRates.size() - 1) == Status::corrupt);
    CHECK(decoded(0, 1) == Status::corrupt);
    CHECK(decoded(1, 1) == Status::corrupt);
}

TEST(mixing_refuses_machines_that_are_not) {
    for (std::size_t machine = 0; machine <= dependent::kMachines; ++machine) {
        CHECK(decoded({0, false, 0, machine}) == Status::ok);
        CHECK(decoded({0, false, 3, machine}) == Status::ok);
        CHECK(decoded({5, false, 0, machine}) == (machine == 0 ? Status::ok : Status::corrupt));
        CHECK(decoded({0, true, 0, machine}) == (machine == 0 ? Status::ok : Status::corrupt));
    }
    CHECK(decoded({0, false, 0, dependent::kMachines + 1}) == Status::corrupt);
}

TEST(mixing_packs_counters_without_loss) {
    constexpr std::uint32_t kKeys = 5000;
    mixing::PackedCounters<kKeys, 3> packed;
    std::map<std::uint32_t, logistic::Counter> expected;
    check::Random random(4);
    for (std::size_t i = 0; i < 20000; ++i) {
        for (std::size_t n = 0; n < 3; ++n) {
            // Few keys learn from many bits.
            const auto key = static_cast<std::uint32_t>(random.below(random.below(2) == 0 ? 40 : kKeys));
            logistic::Counter fresh;
            logistic::set_probability(fresh, 100 + key, key % 4);
            logistic::Counter* const found = packed.get(key, [&] { return fresh; });
            logistic::Counter& counter = expected.try_emplace(key, fresh).first->second;
            CHECK(found != nullptr && found->slow == counter.slow && found->fast == counter.fast);
            const bool bit = random.below(3) == 0;
            logistic::update(counter, bit, mixing::kRates);
            logistic::update(*found, bit, mixing::kRates);
        }
        CHECK(packed.pack());
    }
}

TEST(mixing_packs_mixers_without_loss) {
    using Mixer = logistic::Mixer<mixing::kInputs>;
    mixing::PackedMixers<2> packed;
    std::map<std::uint32_t, Mixer> expected;
    check::Random random(5);
    for (std::size_t i = 0; i < 4000; ++i) {
        const auto key = static_cast<std::uint32_t>(random.below(random.below(2) == 0 ? 10 : 800));
        Mixer fresh;
        fresh.reset(mixing::kFirstWeight);
        Mixer* const found = packed.get(key);
        Mixer& mixer = expected.try_emplace(key, fresh).first->second;
        CHECK(found != nullptr && found->weight == mixer.weight && packed.get(key) == found);
        std::array<std::int16_t, mixing::kInputs> input;
        for (std::int16_t& value : input) value = static_cast<std::int16_t>(random.below(4000)) - 2000;
        const bool bit = random.below(2) == 0;
        const int logit = mixer.logit(input);
        mixer.update(input, logit, bit, 10000);
        found->update(input, logit, bit, 10000);
        CHECK(packed.pack());
    }
}
