// Division by multiplication, as static rANS encodes, is exact for every state that it meets.
#include "metaq/base/interval.hpp"

#include <algorithm>
#include <cstdint>

#include "check.hpp"

namespace {

using metaq::Interval;

bool is_exact(std::uint64_t state, std::uint32_t first, std::uint32_t frequency, unsigned precision) {
    std::uint32_t found = static_cast<std::uint32_t>(state);
    Interval(first, frequency, precision).add_to(found, precision);
    return found == (state / frequency << precision) + state % frequency + first;
}

TEST(states_are_divided_exactly) {
    check::Random random(1);
    for (unsigned precision = 1; precision <= 16; ++precision) {
        const std::uint32_t all = 1u << precision;
        for (std::uint32_t i = 0; i < 400; ++i) {
            const std::uint32_t frequency = i < 4   ? std::min(i + 1, all)
                                            : i < 8 ? all - std::min(i - 4, all - 1)
                                                    : static_cast<std::uint32_t>(1 + random.below(all));
            const auto first = static_cast<std::uint32_t>(random.below(all - frequency + 1));
            const std::uint64_t end = std::uint64_t{frequency} << (32 - precision);  // of the states before a word
            const std::uint64_t multiple = frequency * random.below(end / frequency);
            for (const std::uint64_t state :
                 {end - 1, end - frequency, end - frequency - 1, multiple, multiple + frequency - 1, random.below(end)})
                CHECK(is_exact(state, first, frequency, precision));
        }
    }
}

}  // namespace
