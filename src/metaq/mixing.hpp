#pragma once
#include <algorithm>
#include <memory>
#include <unordered_map>
#include <cmath>
#include "metaq/binary_coder.hpp"
#include "metaq/logistic.hpp"

namespace metaq::mixing {
using namespace logistic;
using bit_t = bool;
inline constexpr int kLrMin = 300;      // /65536
inline constexpr int kLrStart = 3000;
inline constexpr int kLrDecay = 16;
inline constexpr int kSlowLimit = 1000;
inline constexpr int kFastLimit = 24;
inline constexpr int kInitWeight = 80;  // 1/1000
inline constexpr int kInitCount = 2;
inline constexpr int kColLimit = 255;
inline constexpr int kRowLimit = 1000;
inline constexpr int kAllLimit = 1000;
inline constexpr int kPosLimit = 1000;
inline constexpr int kChanLimit = 500;
inline constexpr int kRowPrior = 4;
inline constexpr int kColPrior = 2;
inline constexpr int kChanPrior = 8;
inline constexpr int kPosPrior = 8;
inline constexpr int kWcol = 128;
inline constexpr int kWpos = 128;
inline constexpr int kWchan = 90;
inline constexpr int kApmShift = 6;
inline constexpr int kApmWeight = 2;  // of 4

inline constexpr int kContexts = 8;
inline constexpr std::size_t kInputs = 2 * kContexts;
inline constexpr int kFlags = 24;   // decision kinds: nonzero, classes 1.., sign at 23
inline constexpr int kSignFlag = 23;
inline constexpr int kContextSize = 4096;
inline constexpr std::int64_t kMeanOne = 1 << 20;

struct Tracker {
    std::int64_t mean = 0;
    std::int64_t drift = 0;  // signed
    int count = 0;
    void add(std::int64_t magnitude, std::int64_t value, int limit) {
        const std::int64_t rate = kReciprocals[count];
        mean += ((magnitude * kMeanOne - mean) * rate) >> 16;
        drift += ((value * kMeanOne - drift) * rate) >> 16;
        count = std::min(count + 1, limit);
    }
    int level() const { return log2_fixed(static_cast<std::uint64_t>(mean + 64)); }
    // -4..4
    int lean() const {
        const std::int64_t d = std::abs(drift) * 8;
        int b = 0;
        if (d > mean) b = 1;
        if (d > 2 * mean) b = 2;
        if (d > 4 * mean) b = 3;
        if (d > 6 * mean) b = 4;
        return drift < 0 ? 4 - b : 4 + b;
    }
};

inline int sgn(std::int32_t v) { return (v > 0) - (v < 0); }
inline int quant5(std::int64_t a) { return a < 3 ? int(a) : a < 5 ? 3 : a < 9 ? 4 : 5; }  // 0..5
inline int bin_of(int level, int steps, int bins) {  // level in 1/256 octaves of 2^-20
    return std::clamp(((level - 9 * 256) * steps) >> 8, 0, bins - 1);
}

inline std::int64_t class_width(std::int64_t lower) { return std::max<std::int64_t>(1, (lower + 2) / 4); }

struct Model {
    std::array<Counter, kContexts * kContextSize * kFlags> counters;
    std::array<MixerWeights<kInputs>, kFlags * 1> mixers0;
    std::array<MixerWeights<kInputs>, kFlags * 32> mixers1;
    std::array<Refinement, kFlags * 32> refinements;
    std::array<Counter, 64 * 16> plain;
    std::array<Tracker, 65536> column;
    std::array<Tracker, 65536> channel;
    std::array<Tracker, 4096> position;
    Tracker all, row;

    Model() {
        for (auto& c : counters) set_probability(c, 32768, 0);
        for (auto& c : plain) set_probability(c, 32768, 0);
        // prior of context 0
        for (int b = 0; b < kContextSize; ++b)
            for (int f = 0; f < kFlags; ++f) {
                double m = std::exp2((b / 4.0) + 9 - 20);
                double p = m / (1 + m);
                if (f == kSignFlag) p = 0.5;
                set_probability(counters[b * kFlags + f], std::clamp<int>(p * 65536, 32, 65000), kInitCount);
            }
        for (auto& m : mixers0) { m.weight.fill(kWeightOne / 1000 * kInitWeight); m.count = 0; }
        for (auto& m : mixers1) { m.weight.fill(kWeightOne / 1000 * kInitWeight); m.count = 0; }
        for (auto& r : refinements) r.reset();
        all.mean = kMeanOne; all.count = 2;
    }

    struct Place {
        std::array<std::uint32_t, kContexts> magnitude, sign;
        int select;
    };

    template <class Coder>
    bool decide(Coder& coder, bool bit, const std::array<std::uint32_t, kContexts>& context, int flag, int select) {
        std::array<std::int16_t, kInputs> input;
        std::array<Counter*, kContexts> c;
        c[0] = &counters[context[0] * kFlags + flag];
        const std::uint32_t base = c[0]->slow;
        input[0] = kStretch[c[0]->slow >> 20];
        input[1] = kStretch[c[0]->fast >> 20];
        for (int i = 1; i < kContexts; ++i) {
            c[i] = &counters[(i * kContextSize + context[i]) * kFlags + flag];
            if ((c[i]->slow & kCountMask) == 0) c[i]->slow = base & ~kCountMask, c[i]->fast = base & ~kCountMask;
            input[2 * i] = kStretch[c[i]->slow >> 20];
            input[2 * i + 1] = kStretch[c[i]->fast >> 20];
        }
        auto& m0 = mixers0[flag];
        auto& m1 = mixers1[flag * 32 + select];
        const int d0 = std::clamp(m0.dot(input), -kLogitLimit, kLogitLimit), d1 = std::clamp(m1.dot(input), -kLogitLimit, kLogitLimit);
        const int d = (d0 + d1) >> 1;
        auto& refinement = refinements[flag * 32 + select];
        std::uint32_t p = squash(d);
        p = (p * (4 - kApmWeight) + refinement.refined(d) * kApmWeight) >> 2;
        p = std::clamp<std::uint32_t>(p, 1, 65535);
        bit = coder.code(bit, p);
        for (int i = 0; i < kContexts; ++i) update(*c[i], bit, {std::uint32_t(kSlowLimit), std::uint32_t(kFastLimit)});
        learn(m0, input, d0, bit);
        learn(m1, input, d1, bit);
        refinement.update(d, bit, kApmShift);
        return bit;
    }
    void learn(MixerWeights<kInputs>& m, const std::array<std::int16_t, kInputs>& input, int d, bit_t bit) {
        const int error = ((bit << 16) - int(squash(d))) >> 1;
        const int rate = kLrMin + kLrStart * kLrDecay / (kLrDecay + m.count);
        m.count = std::min(m.count + 1, 65535);
        m.update(input, std::int64_t(error) * rate >> 16);
    }
    template <class Coder>
    bool plain_bit(Coder& coder, bool bit, int context) {
        Counter& c = plain[context];
        const std::uint32_t p = std::clamp<std::uint32_t>(c.slow >> 16, 32, 65536 - 32);
        bit = coder.code(bit, p);
        update(c, bit, {255, 30});
        return bit;
    }
    // Elias gamma, adaptive
    template <class Coder>
    std::uint32_t plain_number(Coder& coder, std::uint32_t n, int set) {
        int bits = 0;
        const int want = std::bit_width(n + 1) - 1;
        while (bits < 31 && plain_bit(coder, bits < want, set * 64 + bits)) ++bits;
        std::uint32_t v = 1;
        for (int i = bits - 1; i >= 0; --i) v = v << 1 | std::uint32_t(plain_bit(coder, ((n + 1) >> i) & 1, set * 64 + 32 + (i == bits - 1 ? bits : 0)));
        return v - 1;
    }
    template <class Coder>
    std::int64_t remainder(Coder& coder, std::int64_t value, std::int64_t lower, std::int64_t width, int set) {
        bool first = true;
        while (width > 1) {
            const std::int64_t half = width / 2;
            bool upper;
            if (first && set < 64) upper = plain_bit(coder, value - lower >= half, 8 * 64 + set);
            else {
                upper = !coder.code(value - lower < half, std::uint32_t((half << 16) / width));
            }
            first = false;
            if (upper) lower += half, width -= half; else width = half;
        }
        return lower;
    }
};


template <class Coder, class Symbol>
bool code_block(Model& model, Coder& coder, const BasicBlock<Symbol>& block, std::int32_t centre, bool constant) {
    const std::size_t row_size = block.channels * block.kernel;
    Symbol* s = block.symbols;
    const auto at = [&](std::size_t i) { return s[i] - centre; };
    const int kw = block.kernel == 9 ? 3 : block.kernel == 25 ? 5 : block.kernel == 49 ? 7 : block.kernel == 4 ? 2 : int(std::min<std::size_t>(block.kernel, 60000));
    Model& m = model;
    m.all.count = std::min(m.all.count, 4);
    for (std::size_t j = 0; j < std::min<std::size_t>(row_size, 65536); ++j) m.column[j] = {};
    for (std::size_t j = 0; j < std::min<std::size_t>(block.channels, 65536); ++j) m.channel[j] = {};
    for (std::size_t j = 0; j < std::min<std::size_t>(block.kernel, 4096); ++j) m.position[j] = {};
    std::size_t i = 0;
    for (std::size_t r = 0; r < block.rows; ++r) {
        m.row = {m.all.mean, 0, kRowPrior};
        std::size_t j = 0;
        for (std::size_t c = 0; c < block.channels; ++c) {
            int ky = 0, kx = 0;
            for (std::size_t k = 0; k < block.kernel; ++k, ++j, ++i, ++kx) {
                if (kx == kw) kx = 0, ++ky;
                Tracker& col = m.column[j & 65535];
                Tracker& chan = m.channel[c & 65535];
                Tracker& pos = m.position[k & 4095];
                if (r == 0) { col = {m.row.mean, 0, kColPrior}; if (k == 0) chan = {m.row.mean, 0, kChanPrior}; if (c == 0) pos = {m.row.mean, 0, kPosPrior}; }
                // neighbours
                const bool conv = block.kernel > 1;
                const std::int32_t left = conv ? (kx > 0 ? at(i - 1) : 0) : (j > 0 ? at(i - 1) : 0);
                const std::int32_t left2 = conv ? (kx > 1 ? at(i - 2) : 0) : (j > 1 ? at(i - 2) : 0);
                const std::int32_t up = conv ? (ky > 0 ? at(i - kw) : 0) : 0;
                const std::int32_t above = r > 0 ? at(i - row_size) : 0;
                const std::int32_t above2 = r > 1 ? at(i - 2 * row_size) : 0;
                const std::int32_t before = c > 0 ? at(i - block.kernel) : 0;
                const std::int32_t before2 = c > 1 ? at(i - 2 * block.kernel) : 0;
                const int lr = m.row.level(), lc = col.level(), lp = pos.level(), lh = chan.level(), la = m.all.level();
                const int e = lr + (((lc - la) * kWcol + (conv ? (lp - la) * kWpos + (lh - la) * kWchan : 0)) >> 8);
                typename Model::Place place;
                const int be = bin_of(e, 4, 80);
                const int b2 = bin_of(e, 2, 32), b1 = bin_of(e, 1, 16);
                auto& g = place.magnitude;
                const auto A = [](std::int32_t v) { return std::abs(std::int64_t{v}); };
                g[0] = be;
                g[1] = bin_of(lr, 2, 32) * 32 + bin_of(lc, 2, 32);
                g[2] = (quant5(A(left)) * 6 + quant5(A(up))) * 32 + b2;
                g[3] = std::min<std::size_t>(k, 63) * 32 + b2;
                g[4] = (std::clamp(left, -7, 7) + 7) * 15 + std::clamp(above, -7, 7) + 7 ;
                g[5] = (quant5(A(above)) * 6 + quant5(A(above2))) * 32 + bin_of(lr, 2, 32);
                g[6] = (quant5(A(before)) * 6 + quant5(A(before2))) * 32 + b2;
                g[7] = (bin_of(lh, 2, 32) * 9 + col.lean()) * 2;
                auto& h = place.sign;
                h[0] = (sgn(left) + 1) * 3 + sgn(up) + 1 + 9 * std::min<std::size_t>(k, 63);
                h[1] = ((sgn(above) + 1) * 3 + sgn(above2) + 1) * 9 + col.lean();
                h[2] = ((sgn(before) + 1) * 3 + sgn(before2) + 1) * 9 + chan.lean();
                h[3] = col.lean() * 32 + b2;
                h[4] = m.row.lean() * 9 + pos.lean();
                h[5] = (std::clamp(left, -7, 7) + 7) * 15 + std::clamp(above, -7, 7) + 7;
                h[6] = (std::clamp(left, -7, 7) + 7) * 15 + std::clamp(up, -7, 7) + 7;
                h[7] = (std::clamp(left, -7, 7) + 7) * 15 + std::clamp(left2, -7, 7) + 7;
                place.select = b2;
                // code
                std::int32_t value = 0;
                if constexpr (std::is_const_v<Symbol>) value = at(i);
                const std::int64_t magnitude = A(value);
                std::int64_t coded = 0;
                bool negative = false;
                if (m.decide(coder, magnitude > 0, g, 0, place.select)) {
                    negative = m.decide(coder, value < 0, h, kSignFlag, place.select);
                    // the sign joins context 7
                    g[7] += negative;
                    std::int64_t lower = 1, width = 1;
                    int flag = 1, cls = 1;
                    while (lower < (std::int64_t{1} << 31) && m.decide(coder, magnitude >= lower + width, g, flag, place.select)) {
                        lower += width;
                        width = class_width(lower);
                        flag = std::min(flag + 1, kSignFlag - 1);
                        ++cls;
                    }
                    coded = m.remainder(coder, magnitude, lower, width, cls);
                }
                if constexpr (!std::is_const_v<Symbol>) {
                    const std::int64_t v = centre + (negative ? -coded : coded);
                    if (std::abs(v) >= kSymbolLimit) return false;
                    s[i] = std::int32_t(v);
                    value = s[i] - centre;
                }
                const std::int64_t a = std::min<std::int64_t>(coded, 1 << 20), sa = negative ? -a : a;
                m.all.add(a, sa, kAllLimit);
                m.row.add(a, sa, kRowLimit);
                col.add(a, sa, kColLimit);
                chan.add(a, sa, kChanLimit);
                pos.add(a, sa, kPosLimit);
            }
        }
    }
    return true;
}

inline std::int32_t most_frequent(const ConstBlock& block) {
    std::unordered_map<std::int32_t, std::size_t> count;
    for (std::size_t i = 0; i < block.size(); ++i) ++count[block.symbols[i]];
    std::int32_t best = 0; std::size_t n = 0;
    for (auto& [v, c] : count) if (c > n || (c == n && v < best)) best = v, n = c;
    return best;
}

template <class Coder>
std::int32_t code_header(Model& m, Coder& coder, std::int32_t centre, bool& constant) {
    constant = m.plain_bit(coder, constant, 0);
    const std::uint32_t z = m.plain_number(coder, centre < 0 ? std::uint32_t(-centre) * 2 - 1 : std::uint32_t(centre) * 2, 1);
    return z & 1 ? -std::int32_t((z + 1) / 2) : std::int32_t(z / 2);
}

inline void encode(std::span<const ConstBlock> blocks, std::vector<std::uint8_t>& out) {
    auto model = std::make_unique<Model>();
    BinaryEncoder coder(out);
    for (const auto& b : blocks) {
        if (b.size() == 0) continue;
        const std::int32_t centre = most_frequent(b);
        bool constant = std::all_of(b.symbols, b.symbols + b.size(), [&](auto v) { return v == centre; });
        code_header(*model, coder, centre, constant);
        if (!constant) code_block(*model, coder, b, centre, constant);
    }
    coder.finish();
}
inline Status decode(std::span<const std::uint8_t> data, std::span<const Block> blocks) {
    auto model = std::make_unique<Model>();
    BinaryDecoder coder(data);
    for (const auto& b : blocks) {
        if (b.size() == 0) continue;
        bool constant = false;
        const std::int32_t centre = code_header(*model, coder, 0, constant);
        if (std::abs(centre) >= kSymbolLimit) return Status::corrupt;
        if (constant) std::fill(b.symbols, b.symbols + b.size(), centre);
        else if (!code_block(*model, coder, b, centre, constant)) return Status::corrupt;
        if (coder.truncated()) return Status::truncated;
    }
    return coder.finish();
}
}  // namespace metaq::mixing
