// The inner loop of rANS encoding.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "metaq/base/interval.hpp"
#include "metaq/rans/lanes.hpp"
#include "metaq/rans/tables.hpp"

namespace metaq::rans {

// Codes the symbols backwards, and so writes the words from the last to the first.
template <class Place>
class Encoder {
public:
    // `places` has for each symbol which of the header's frequencies is its own.
    Encoder(const Header& header, std::span<const Place> places)
        : lanes_(std::size_t{1} << header.lane_width),
          precision_(header.precision),
          places_(places),
          words_(std::make_unique_for_overwrite<std::uint16_t[]>(places.size() + 1)),
          words_end_(words_.get() + places.size() + 1),
          first_word_(words_end_) {
        states_.fill(kLeastState);
        for (std::size_t i = 0; i < header.tables(); ++i) {
            std::uint32_t start = 0;
            for (const std::uint32_t frequency : header.table(i)) {
                intervals_.push_back(Interval(start, frequency, header.precision));
                start += frequency;
            }
        }
        for (std::size_t lane = 0; lane < lanes_; ++lane)
            shares_[lane] = places.data() + lane_start(lane, lanes_, places.size());
    }

    void run() {
        const std::size_t steps = places_.size() / lanes_;
        const std::size_t rest = places_.size() % lanes_;
        if (rest > 0) encode_steps(steps, steps + 1, rest);
        lanes_ == kLaneLimit ? encode_steps<kLaneLimit>(steps) : encode_steps(0, steps, lanes_);
    }

    std::span<const std::uint32_t> states() const { return {states_.data(), lanes_}; }
    std::span<const std::uint16_t> words() const { return {first_word_, words_end_}; }

private:
    void encode_steps(std::size_t first, std::size_t step, std::size_t active) {
        while (step-- > first) {
            for (std::size_t lane = active; lane-- > 0;)
                intervals_[shares_[lane][step]].push(states_[lane], precision_, first_word_);
        }
    }

    // As above, down to the first step and with all lanes, in a fraction of the time: written out for each lane.
    template <std::size_t kLanes>
    void encode_steps(std::size_t step) {
        std::array<std::uint32_t, kLaneLimit> states = states_;
        const std::array<const Place*, kLaneLimit> shares = shares_;
        const Interval* const intervals = intervals_.data();
        const unsigned precision = precision_;
        std::uint16_t* words = first_word_;
        while (step-- > 0) {
            [&]<std::size_t... kPlaces>(std::index_sequence<kPlaces...>) {
                (intervals[shares[kLanes - 1 - kPlaces][step]].push(states[kLanes - 1 - kPlaces], precision, words),
                 ...);
            }(std::make_index_sequence<kLanes>());
        }
        first_word_ = words;
        states_ = states;
    }

    std::size_t lanes_;
    unsigned precision_;
    std::span<const Place> places_;
    std::vector<Interval> intervals_;  // by class and key
    std::array<std::uint32_t, kLaneLimit> states_{};
    std::array<const Place*, kLaneLimit> shares_{};
    std::unique_ptr<std::uint16_t[]> words_;
    std::uint16_t* words_end_;
    std::uint16_t* first_word_;
};

}  // namespace metaq::rans
