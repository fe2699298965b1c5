// Exact k-means against the textbook programme, under sanitizers.
#include "metaq/solvers/kmeans1d.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.hpp"

static double cost(const std::vector<double>& value, const std::vector<double>& count, std::size_t a, std::size_t b) {
    double members = 0.0, sum = 0.0, error = 0.0;
    for (std::size_t i = a; i < b; ++i) {
        members += count[i];
        sum += count[i] * value[i];
    }
    for (std::size_t i = a; i < b; ++i) error += count[i] * (value[i] - sum / members) * (value[i] - sum / members);
    return error;
}

TEST(exact_kmeans_is_the_textbook_programme) {
    check::Random random(1);
    for (std::size_t size = 1; size <= 90; size += size < 6 ? 1 : 28) {
        std::vector<double> value, count;
        double place = -7.0;
        for (std::size_t i = 0; i < size; ++i) {
            place += 1.0 + static_cast<double>(random.below(50));
            value.push_back(place);
            count.push_back(1.0 + static_cast<double>(random.below(4)));
        }
        std::vector<double> least(size + 1, HUGE_VAL);
        least[0] = 0.0;
        for (std::size_t clusters = 1; clusters <= std::min<std::size_t>(size, 7); ++clusters) {
            std::vector<double> next(size + 1, HUGE_VAL);
            for (std::size_t b = clusters; b <= size; ++b) {
                for (std::size_t a = clusters - 1; a < b; ++a) {
                    next[b] = std::min(next[b], least[a] + cost(value, count, a, b));
                }
            }
            least = next;
            std::vector<double> work(5 * (size + 1));
            std::vector<std::int32_t> cuts((clusters - 1) * (size + 1));
            std::vector<std::int64_t> ends(clusters);
            double* const part = work.data();
            metaq::kmeans1d::solve({value.data(), count.data(), size}, clusters,
                                   {part, part + size + 1, part + 2 * (size + 1), part + 3 * (size + 1),
                                    part + 4 * (size + 1), cuts.data()},
                                   ends.data());
            double found = 0.0;
            std::size_t begin = 0;
            for (const std::int64_t end : ends) {
                CHECK(begin < static_cast<std::size_t>(end));
                found += cost(value, count, begin, static_cast<std::size_t>(end));
                begin = static_cast<std::size_t>(end);
            }
            CHECK(begin == size);
            CHECK(std::abs(found - least[size]) <= 1e-9 * (1.0 + least[size]));
        }
    }
}
