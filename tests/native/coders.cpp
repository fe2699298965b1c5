// The shared suite over every coder of blocks.
#include "coder_suite.hpp"
#include "metaq/adaptive/coder.hpp"
#include "metaq/huffman/coder.hpp"
#include "metaq/mixing/coder.hpp"
#include "metaq/range/coder.hpp"
#include "metaq/rans/coder.hpp"

namespace {

constexpr suite::Coder huffman{&metaq::huffman::encode, &metaq::huffman::decode, true, 40};
constexpr suite::Coder range{&metaq::range::encode, &metaq::range::decode, false, 40};
constexpr suite::Coder rans{&metaq::rans::encode, &metaq::rans::decode, true, 40};
constexpr suite::Coder mixing{&metaq::mixing::encode, &metaq::mixing::decode, false, 2};
constexpr suite::Coder adaptive{&metaq::adaptive::encode, &metaq::adaptive::decode, true, 10};

}  // namespace

TEST(huffman_round_trips) { suite::round_trips(huffman); }
TEST(huffman_appends) { suite::appends(huffman); }
TEST(huffman_survives_damage) { suite::survives_damage(huffman); }
TEST(huffman_stays_in_range) { suite::stays_in_range(huffman); }

TEST(range_round_trips) { suite::round_trips(range); }
TEST(range_appends) { suite::appends(range); }
TEST(range_survives_damage) { suite::survives_damage(range); }
TEST(range_stays_in_range) { suite::stays_in_range(range); }

TEST(rans_round_trips) { suite::round_trips(rans); }
TEST(rans_appends) { suite::appends(rans); }
TEST(rans_survives_damage) { suite::survives_damage(rans); }
TEST(rans_stays_in_range) { suite::stays_in_range(rans); }

TEST(mixing_round_trips) { suite::round_trips(mixing); }
TEST(mixing_appends) { suite::appends(mixing); }
TEST(mixing_survives_damage) { suite::survives_damage(mixing); }
TEST(mixing_stays_in_range) { suite::stays_in_range(mixing); }

TEST(adaptive_round_trips) { suite::round_trips(adaptive); }
TEST(adaptive_appends) { suite::appends(adaptive); }
TEST(adaptive_survives_damage) { suite::survives_damage(adaptive); }
TEST(adaptive_stays_in_range) { suite::stays_in_range(adaptive); }
