// The parts of the baseline coders: bits, code lengths, frequencies, alphabets.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <queue>
#include <vector>

#include "check.hpp"
#include "metaq/base/bits.hpp"
#include "metaq/base/frequencies.hpp"
#include "metaq/base/histogram.hpp"
#include "metaq/huffman/package_merge.hpp"

using Counts = std::vector<std::uint64_t>;

// The bits of an optimal code without a bound on the lengths: the sum of the inner nodes of Huffman's tree.
static std::uint64_t huffman_bits(const Counts& counts) {
    std::priority_queue<std::uint64_t, Counts, std::greater<>> nodes(counts.begin(), counts.end());
    std::uint64_t bits = 0;
    while (nodes.size() > 1) {
        std::uint64_t sum = nodes.top();
        nodes.pop();
        sum += nodes.top();
        nodes.pop();
        nodes.push(sum);
        bits += sum;
    }
    return bits;
}

static std::uint64_t code_bits(const Counts& counts, const std::vector<std::uint8_t>& lengths) {
    return std::inner_product(counts.begin(), counts.end(), lengths.begin(), std::uint64_t{0});
}

static bool is_complete(const std::vector<std::uint8_t>& lengths) {
    std::uint64_t covered = 0;
    for (const std::uint8_t length : lengths) covered += std::uint64_t{1} << (32 - length);
    return covered == std::uint64_t{1} << 32;
}

TEST(golomb_codes_every_order) {
    const std::vector<std::uint32_t> values = {0,    1,     2,     3,          7,          8,
                                               1000, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff};
    for (unsigned order = 0; order < 32; ++order) {
        std::vector<std::uint8_t> bytes;
        metaq::BitWriter writer(bytes);
        for (const std::uint32_t value : values) metaq::put_golomb(writer, value, order);
        writer.finish();
        metaq::BitReader reader(bytes);
        for (const std::uint32_t value : values) {
            std::uint32_t read = 0;
            CHECK(metaq::get_golomb(reader, order, read) && read == value);
        }
        CHECK(reader.finish() == metaq::Status::ok);
    }
}

TEST(golomb_refuses_what_is_no_code) {
    const std::vector<std::uint8_t> ones(16, 0xff);
    metaq::BitReader reader(ones);
    std::uint32_t value = 0;
    CHECK(!metaq::get_golomb(reader, 0, value));
}

TEST(zigzag_is_a_bijection) {
    for (const std::int32_t value : {0, -1, 1, -2, 2, 1 << 30, -(1 << 30), INT32_MAX, INT32_MIN}) {
        CHECK(metaq::from_zigzag(metaq::to_zigzag(value)) == value);
    }
    CHECK(metaq::to_zigzag(-1) == 1 && metaq::to_zigzag(1) == 2);
}

TEST(package_merge_is_optimal_without_a_bound) {
    check::Random random(4);
    for (int repeat = 0; repeat < 200; ++repeat) {
        Counts counts(2 + random.below(40));
        for (std::uint64_t& count : counts) count = 1 + random.below(std::uint64_t{1} << random.below(12));
        const auto lengths = metaq::package_merge(counts, 24);
        CHECK(is_complete(lengths));
        CHECK(code_bits(counts, lengths) == huffman_bits(counts));
    }
}

TEST(package_merge_keeps_the_bound) {
    Counts fibonacci = {1, 1};
    while (fibonacci.size() < 32) fibonacci.push_back(fibonacci.end()[-1] + fibonacci.end()[-2]);
    for (const unsigned limit : {5u, 6u, 12u, 24u}) {
        const auto lengths = metaq::package_merge(fibonacci, limit);
        CHECK(is_complete(lengths));
        CHECK(*std::max_element(lengths.begin(), lengths.end()) <= limit);
    }
    // All possibilities for four counts and three bits are 2 2 2 2 and 1 2 3 3.
    CHECK(code_bits({1, 1, 2, 9}, metaq::package_merge(Counts{1, 1, 2, 9}, 3)) == 19);
    CHECK(code_bits({1, 1, 2, 9}, metaq::package_merge(Counts{1, 1, 2, 9}, 2)) == 26);
}

TEST(frequencies_sum_and_are_near_the_entropy) {
    check::Random random(5);
    for (int repeat = 0; repeat < 50; ++repeat) {
        Counts counts(2 + random.below(300));
        for (std::uint64_t& count : counts) count = 1 + random.below(std::uint64_t{1} << random.below(16));
        const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}));
        for (unsigned precision = 9; precision <= metaq::range::kPrecisionLimit; ++precision) {
            const metaq::range::Frequencies table = metaq::range::scale_counts(counts, precision);
            CHECK(std::accumulate(table.frequencies.begin(), table.frequencies.end(), 0u) == 1u << precision);
            CHECK(*std::min_element(table.frequencies.begin(), table.frequencies.end()) >= 1);
        }
        const metaq::range::Frequencies chosen = metaq::range::scale_counts(counts, metaq::range::kPrecisionLimit);
        double bits = 0;
        double entropy = 0;
        for (std::size_t i = 0; i < counts.size(); ++i) {
            const auto count = static_cast<double>(counts[i]);
            entropy -= count * std::log2(count / total);
            bits -= count * std::log2(chosen.frequencies[i] / 65536.0);
        }
        CHECK(bits < entropy * 1.002 + 1);
    }
}

TEST(frequencies_round_trip) {
    check::Random random(6);
    for (int repeat = 0; repeat < 50; ++repeat) {
        Counts counts(1 + random.below(500));
        for (std::uint64_t& count : counts) count = 1 + random.below(std::uint64_t{1} << random.below(16));
        const metaq::range::Frequencies table = metaq::range::choose_frequencies(counts);
        std::vector<std::uint8_t> bytes;
        metaq::BitWriter writer(bytes);
        metaq::range::write_frequencies(writer, table);
        writer.finish();
        metaq::range::Frequencies read{0, metaq::range::EntryNumbers(counts.size())};
        metaq::BitReader reader(bytes);
        CHECK(metaq::range::read_frequencies(reader, read.frequencies, read.precision));
        CHECK(read.precision == table.precision && read.frequencies == table.frequencies);
    }
}

TEST(fixed_log2_is_close) {
    for (std::uint32_t value = 1; value <= 65536; ++value) {
        const double difference = static_cast<double>(metaq::fixed_log2(value)) / 65536 - std::log2(value);
        CHECK(difference <= 0 && difference > -1e-4);
    }
}

TEST(alphabet_bounds_its_tables) {
    std::vector<std::int32_t> symbols(100000);
    for (std::size_t i = 0; i < symbols.size(); ++i) symbols[i] = static_cast<std::int32_t>(i * 10007) - 500000000;
    const metaq::Histogram distinct({symbols.data(), symbols.size(), 1, 1});
    CHECK(distinct.alphabet().listed.empty());
    CHECK(distinct.alphabet().escape_width == 30);

    for (std::size_t i = 0; i < symbols.size(); ++i) {
        symbols[i] = static_cast<std::int32_t>(i % 5 == 0 ? 900 + i * 7 : i % 801);
    }
    const metaq::Histogram wide({symbols.data(), symbols.size(), 1, 1});
    CHECK(wide.alphabet().listed.size() == 801);
    CHECK(wide.alphabet().has_escape());
    CHECK(std::accumulate(wide.counts().begin(), wide.counts().end(), std::uint64_t{0}) == symbols.size());
}

TEST(alphabet_lists_few_symbols_and_lets_outliers_escape) {
    std::vector<std::int32_t> symbols(10000);
    for (std::size_t i = 0; i < symbols.size(); ++i) symbols[i] = static_cast<std::int32_t>(i % 7) - 3;
    const metaq::Histogram few({symbols.data(), 100, 10, 10});
    CHECK((std::ranges::equal(few.alphabet().listed, std::vector<std::int32_t>{-3, -2, -1, 0, 1, 2, 3})));
    CHECK(!few.alphabet().has_escape());

    for (std::size_t i = 0; i < 100; ++i) symbols[100 * i] = static_cast<std::int32_t>(i * i * 50021) + 1000;
    const metaq::Histogram outliers({symbols.data(), 100, 10, 10});
    CHECK(outliers.alphabet().listed == few.alphabet().listed);
    CHECK(outliers.alphabet().has_escape());
}
