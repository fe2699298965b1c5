// Fuzz target: changes of a base. The input says the dtype, and then either elements and what they become, which has to come
// back, or a stream for a base that is always the same, which may be refused.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "metaq/difference/coder.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr metaq::difference::WordTraits kTraits[]{{4, 23, true}, {2, 10, true}, {2, 7, true},  {8, 52, true},
                                                  {1, 3, true},  {1, 2, true},  {1, 0, false}, {8, 0, false}};
constexpr std::size_t kStreamElements = 3000;

void check(bool holds) {
    if (!holds) std::abort();
}

// Elements that repeat with changes, so that units are skipped and lanes share the work.
Bytes repeated(std::span<const std::uint8_t> bytes, std::size_t size) {
    Bytes all(size);
    for (std::size_t i = 0; i < size && !bytes.empty(); ++i)
        all[i] = static_cast<std::uint8_t>(bytes[i % bytes.size()] + i / bytes.size());
    return all;
}

void round_trip(const metaq::difference::WordTraits& traits, std::span<const std::uint8_t> bytes, std::size_t times) {
    const std::size_t half = bytes.size() / 2 / traits.bytes * traits.bytes;
    const Bytes base = repeated(bytes.first(half), times * half);
    Bytes other = base;
    for (std::size_t i = 0; i < half; ++i) other[(times - 1) * half + i] ^= bytes[half + i];
    Bytes code;
    const std::uint64_t changed = metaq::difference::encode(traits, base, other, code);
    check((changed > 0) == (base != other));
    Bytes decoded(base.size());
    check(metaq::difference::decode(code, traits, base, decoded) == metaq::Status::ok);
    check(decoded == other);
}

// The elements come out alike in memory of their own and in place of the base's, and come back when they are coded again.
void decode(const metaq::difference::WordTraits& traits, std::span<const std::uint8_t> stream, std::size_t elements) {
    Bytes base(elements * traits.bytes);
    for (std::size_t i = 0; i < base.size(); ++i) base[i] = static_cast<std::uint8_t>(i * i >> 3);
    Bytes out(base.size()), in_place = base;
    const bool is_good = metaq::difference::decode(stream, traits, base, out) == metaq::Status::ok;
    check((metaq::difference::decode(stream, traits, in_place, in_place) == metaq::Status::ok) == is_good);
    if (!is_good) return;
    check(in_place == out);
    Bytes code, again(base.size());
    (void)metaq::difference::encode(traits, base, out, code);
    check(metaq::difference::decode(code, traits, base, again) == metaq::Status::ok && again == out);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    if (size < 2) return 0;
    const metaq::difference::WordTraits& traits = kTraits[bytes[0] % 8];
    const std::span rest(bytes + 2, size - 2);
    if (bytes[1] % 2 == 0) {
        round_trip(traits, rest, 1 + bytes[1] / 16);
        return 0;
    }
    decode(traits, rest, (1 + bytes[1] / 2) * kStreamElements / 128);
    return 0;
}
