// What the adaptive coder is built on: tables of sixteen probabilities that follow what is coded, and rANS over them.
//
// A step is an entry of a table or up to 15 plain bits: a share of 2^15. Each lane has a state of 64 bits, so that a step
// need not wait for those of others. Encoding runs backwards over the steps noted; decoding, forwards, finds both states
// where encoding began. A stream: the states, 8 bytes each, and the words of 32 bits that they take in, little-endian.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "metaq/adaptive/lanes.hpp"
#include "metaq/base/buffer.hpp"
#include "metaq/base/sse2.hpp"
#include "metaq/base/symbols.hpp"

namespace metaq::adaptive {

inline constexpr std::size_t kEntries = 16;
inline constexpr unsigned kShareBits = 15;
inline constexpr std::uint32_t kOne = 1u << kShareBits;

using Counts = std::array<std::uint16_t, kEntries>;

// Probabilities by counts, which are looked at now and then: after 4 steps, 5, 6, ..., and every 32 in the end. Aligned, so
// that its size is one by which addresses take no multiplication.
class alignas(8) Table {
public:
    // At least one count is not zero, and they add up to at most kMostCounted.
    explicit Table(const Counts& counts) : counts_(counts) { learn(); }
    Table() = default;

    std::uint32_t start(std::size_t entry) const { return starts_[entry]; }
    std::uint32_t share(std::size_t entry) const { return std::uint32_t{starts_[entry + 1]} - starts_[entry]; }

    // The entry whose share a place in 2^15 lies in.
    std::size_t find(std::uint32_t place) const {
#ifdef METAQ_SSE2
        const __m128i wanted = _mm_set1_epi16(static_cast<short>(place));
        const auto beyond = [&](std::size_t first) {
            return _mm_cmpgt_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(starts_.data() + first)), wanted);
        };
        const int mask = _mm_movemask_epi8(_mm_packs_epi16(beyond(0), beyond(8)));
        return static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(mask) | 1u << kEntries)) - 1;
#else
        std::size_t entry = 0;
        for (std::size_t i = 1; i < kEntries; ++i) entry += starts_[i] <= place;
        return entry;
#endif
    }

    void count(std::size_t entry) {
        counts_[entry] = static_cast<std::uint16_t>(counts_[entry] + kStep);
        if (--left_ == 0) learn();
    }

private:
    static constexpr std::uint16_t kStep = 32;
    static constexpr std::uint32_t kMostCounted = 48000;  // beyond it, counts are halved
    static constexpr unsigned kFirstGap = 4, kLastGap = 32;

    // Every entry keeps a share of 1.
    [[gnu::noinline]] void learn() {
#ifdef METAQ_SSE2
        auto* counts = reinterpret_cast<__m128i*>(counts_.data());
        auto* starts = reinterpret_cast<__m128i*>(starts_.data());
        const __m128i first = _mm_loadu_si128(counts), second = _mm_loadu_si128(counts + 1);
        const __m128i sums = up_to_each(first), all_first = last_of(sums);
        const __m128i later_sums = _mm_add_epi16(up_to_each(second), all_first);
        const auto total = static_cast<std::uint32_t>(_mm_extract_epi16(later_sums, 7));
        const std::uint32_t factor = ((kOne - kEntries) << 16) / total;
        const __m128i high = _mm_set1_epi16(static_cast<short>(factor >> 16)),
                      low = _mm_set1_epi16(static_cast<short>(factor));
        // Products with the halves of the factor are those with all of it, without their last bits.
        const auto scaled = [&](__m128i sum) {
            return _mm_add_epi16(_mm_mullo_epi16(sum, high), _mm_mulhi_epu16(sum, low));
        };
        const __m128i numbers = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7),
                      later_numbers = _mm_add_epi16(numbers, _mm_set1_epi16(8));
        _mm_storeu_si128(starts, _mm_add_epi16(scaled(_mm_sub_epi16(sums, first)), numbers));
        _mm_storeu_si128(starts + 1, _mm_add_epi16(scaled(_mm_sub_epi16(later_sums, second)), later_numbers));
#else
        std::uint32_t total = 0;
        for (const std::uint16_t counted : counts_) total += counted;
        const std::uint32_t factor = ((kOne - kEntries) << 16) / total;
        std::uint32_t sum = 0;
        for (std::size_t i = 0; i < kEntries; ++i) {
            starts_[i] = static_cast<std::uint16_t>((sum * factor >> 16) + i);
            sum += counts_[i];
        }
#endif
        starts_[kEntries] = kOne;
        left_ = gap_;
        gap_ = static_cast<std::uint16_t>(std::min(gap_ + gap_ / 4u, kLastGap));
        if (total + gap_ * kStep <= kMostCounted) return;
        for (std::uint16_t& counted : counts_) counted = static_cast<std::uint16_t>(counted - counted / 2);
    }

#ifdef METAQ_SSE2
    // Of eight numbers the sums of the first, the first two, ...
    static __m128i up_to_each(__m128i numbers) {
        numbers = _mm_add_epi16(numbers, _mm_slli_si128(numbers, 2));
        numbers = _mm_add_epi16(numbers, _mm_slli_si128(numbers, 4));
        return _mm_add_epi16(numbers, _mm_slli_si128(numbers, 8));
    }

    static __m128i last_of(__m128i numbers) { return _mm_shuffle_epi32(_mm_shufflehi_epi16(numbers, 0xff), 0xff); }
#endif

    std::array<std::uint16_t, kEntries + 1> starts_{};  // of the entries' shares of 2^15
    Counts counts_{};
    std::uint16_t left_ = 0;  // steps until the counts are looked at
    std::uint16_t gap_ = kFirstGap;
};

inline constexpr std::uint64_t kLeastState = std::uint64_t{1} << 31;
inline constexpr std::size_t kStateBytes = 8 * kLanes, kWordBytes = 4;

// A step as the encoder notes it.
struct Step {
    std::uint16_t start, share;
    std::uint8_t lane;
};

class Encoder {
public:
    explicit Encoder(std::vector<Step>& steps) : steps_(&steps) {}

    std::size_t code(std::size_t lane, Table& table, std::size_t entry) {
        note(lane, table.start(entry), table.share(entry));
        table.count(entry);
        return entry;
    }

    // A value of `count` bits, at most 15.
    std::uint32_t bits(std::size_t lane, std::uint32_t value, unsigned count) {
        note(lane, value << (kShareBits - count), kOne >> count);
        return value;
    }

    Status status() const { return Status::ok; }

    void finish(std::vector<std::uint8_t>& out) const {
        std::array<std::uint64_t, kLanes> states;
        states.fill(kLeastState);
        std::vector<std::uint32_t> words;
        for (std::size_t i = steps_->size(); i-- > 0;) {
            const auto [start, share, lane] = (*steps_)[i];
            std::uint64_t& state = states[lane];
            if (state >= std::uint64_t{share} << (63 - kShareBits)) {
                words.push_back(static_cast<std::uint32_t>(state));
                state >>= 32;
            }
            state = (state / share << kShareBits) + state % share + start;
        }
        for (const std::uint64_t state : states) put(out, state, 8);
        for (std::size_t i = words.size(); i-- > 0;) put(out, words[i], 4);
    }

private:
    void note(std::size_t lane, std::uint32_t start, std::uint32_t share) {
        steps_->push_back(
            {static_cast<std::uint16_t>(start), static_cast<std::uint16_t>(share), static_cast<std::uint8_t>(lane)});
    }

    static void put(std::vector<std::uint8_t>& out, std::uint64_t value, int bytes) {
        for (int i = 0; i < bytes; ++i) out.push_back(static_cast<std::uint8_t>(value >> 8 * i));
    }

    std::vector<Step>* steps_;
};

// A copy of bytes with zeros behind them.
class PaddedBytes {
public:
    [[nodiscard]] bool assign(std::span<const std::uint8_t> data, std::size_t zeros) {
        bytes_.clear();
        size_ = data.size();
        return bytes_.reserve(size_ + zeros) && bytes_.append_all(data) && bytes_.resize(size_ + zeros);
    }

    std::size_t size() const { return size_; }
    const std::uint8_t* begin() const { return bytes_.data(); }
    const std::uint8_t* end() const { return begin() + size_; }

private:
    std::size_t size_ = 0;
    Buffer<std::uint8_t> bytes_;
};

// Steps take words in without a check of where the data ends. That is why zeros follow it: as many words as there are steps
// between two calls of `status`.
class Decoder {
public:
    // A stream without steps has no states.
    Decoder(const PaddedBytes& data, bool has_steps) : next_(data.begin()), end_(data.end()) {
        states_.fill(kLeastState);
        if (!has_steps) return;
        if (data.size() < kStateBytes) {
            status_ = Status::truncated;
            return;
        }
        for (std::uint64_t& state : states_) {
            state = std::uint64_t{word(next_)} | std::uint64_t{word(next_ + kWordBytes)} << 32;
            next_ += 2 * kWordBytes;
            if (!is_state(state)) status_ = Status::corrupt;
        }
    }

    [[gnu::always_inline]] std::size_t code(std::size_t lane, Table& table, std::size_t) {
        const std::uint32_t place = states_[lane] % kOne;
        const std::size_t entry = table.find(place);
        take(lane, place - table.start(entry), table.share(entry));
        table.count(entry);
        return entry;
    }

    std::uint32_t bits(std::size_t lane, std::uint32_t, unsigned count) {
        const std::uint32_t place = states_[lane] % kOne, share = kOne >> count;
        take(lane, place % share, share);
        return place / share;
    }

    // Unless this is ok, what was decoded means nothing.
    Status status() const { return status_ == Status::ok && next_ > end_ ? Status::truncated : status_; }

    // The status of a stream that ends with the last step read, or with zeros after it if the stream `is_filled`.
    Status finish(bool is_filled) const {
        if (status() != Status::ok) return status();
        for (const std::uint64_t state : states_) {
            if (state != kLeastState) return Status::corrupt;
        }
        const bool is_zero = std::all_of(next_, end_, [](std::uint8_t byte) { return byte == 0; });
        return next_ == end_ || (is_filled && is_zero) ? Status::ok : Status::corrupt;
    }

private:
    // Where encoders' states stay between steps, without which a stream could be written in several ways.
    static bool is_state(std::uint64_t state) { return kLeastState <= state && state < kLeastState << 32; }

    static std::uint32_t word(const std::uint8_t* from) {
        std::array<std::uint8_t, kWordBytes> bytes;
        std::memcpy(bytes.data(), from, bytes.size());
        if constexpr (std::endian::native == std::endian::little) return std::bit_cast<std::uint32_t>(bytes);
        return std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
               std::uint32_t{bytes[3]} << 24;
    }

    // Ends the step of a lane, given what of its place is left of the share. Whether a word is taken in would often be
    // mispredicted, so there is no branch for it.
    [[gnu::always_inline]] void take(std::size_t lane, std::uint32_t rest, std::uint32_t share) {
        const std::uint64_t state = share * (states_[lane] >> kShareBits) + rest;
        const auto wants =
            static_cast<std::uint64_t>(static_cast<std::int64_t>(state - kLeastState) >> 63);  // all its bits
        states_[lane] = state << (wants & 32) | (word(next_) & wants);
        next_ += wants & kWordBytes;
    }

    const std::uint8_t* next_;
    const std::uint8_t* end_;
    std::array<std::uint64_t, kLanes> states_;
    Status status_ = Status::ok;
};

}  // namespace metaq::adaptive
