// Elements as integers in the order of their values, and the difference of two as a class and bits (docs/format.md,
// "Difference").
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace metaq::difference {

// What of a dtype the coder needs: a word's bytes, and where its exponent begins; `is_float` is false of integers.
struct WordTraits {
    unsigned bytes = 0;
    unsigned mantissa_bits = 0;
    bool is_float = false;
};

inline constexpr std::size_t kKeys = 2048;  // exponents have at most 11 bits

// The lowest bytes of elements in memory come first on every machine.
template <class Word>
Word load(const std::uint8_t* bytes) {
    Word word = 0;
    std::memcpy(&word, bytes, sizeof(Word));
    if constexpr (std::endian::native == std::endian::big && sizeof(Word) > 1) {
        Word other = 0;
        for (unsigned i = 0; i < sizeof(Word); ++i, word = static_cast<Word>(word >> 8))
            other = static_cast<Word>(other << 8 | (word & 0xff));
        return other;
    }
    return word;
}

template <class Word>
void store(std::uint8_t* bytes, Word word) {
    word = load<Word>(reinterpret_cast<const std::uint8_t*>(&word));
    std::memcpy(bytes, &word, sizeof(Word));
}

template <class Word>
inline constexpr Word kSign = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));

template <class Word>
bool is_negative(Word word) {
    return (word & kSign<Word>) != 0;
}

// A float's bits to the two's complement of its place among all floats, and back; integers stay as they are.
template <class Word, bool kIsFloat>
Word ordered(Word word) {
    if constexpr (!kIsFloat) return word;
    return is_negative(word) ? static_cast<Word>(word ^ static_cast<Word>(~kSign<Word>)) : word;
}

// The exponent; 0 of integers.
template <class Word, bool kIsFloat>
std::size_t key_of(Word word, unsigned mantissa_bits) {
    if constexpr (!kIsFloat) return 0;
    return static_cast<std::size_t>(static_cast<Word>(word & static_cast<Word>(~kSign<Word>)) >> mantissa_bits);
}

// What leads from the base's element to the new one, away from zero if positive, modulo 2^(8 sizeof(Word)).
template <class Word, bool kIsFloat>
Word distance(Word base, Word word) {
    const auto way = static_cast<Word>(ordered<Word, kIsFloat>(word) - ordered<Word, kIsFloat>(base));
    return kIsFloat && is_negative(base) ? static_cast<Word>(0 - way) : way;
}

template <class Word, bool kIsFloat>
Word moved(Word base, Word way) {
    if (kIsFloat && is_negative(base)) way = static_cast<Word>(0 - way);
    return ordered<Word, kIsFloat>(static_cast<Word>(ordered<Word, kIsFloat>(base) + way));
}

// Magnitudes are 1 to 7, or else of a class with the same bits at the top, and bits below.
inline constexpr std::size_t kMagnitudeClasses = 123;
inline constexpr std::size_t kSymbols = 2 * kMagnitudeClasses;  // of a class and a sign: 2 class + (1 if negative)

struct MagnitudeClass {
    std::uint64_t least;
    unsigned bits;  // below
};

inline constexpr std::array<MagnitudeClass, kMagnitudeClasses> kClasses = [] {
    std::array<MagnitudeClass, kMagnitudeClasses> classes{};
    std::size_t next = 0;
    for (std::uint64_t i = 1; i < 8; ++i) classes[next++] = {i, 0};
    for (unsigned width = 4; width <= 64; ++width) {
        const unsigned top = width <= 16 ? 2 : width <= 32 ? 1 : 0;
        const unsigned bits = width - 1 - top;
        for (std::uint64_t i = 0; i < 1u << top; ++i) classes[next++] = {((std::uint64_t{1} << top) + i) << bits, bits};
    }
    return classes;
}();
static_assert(kClasses.back().least == std::uint64_t{1} << 63);

// The class of each magnitude that most changes have; that of 0 is not used.
inline constexpr auto kSmallClasses = [] {
    std::array<std::uint8_t, 1024> classes{};
    for (std::size_t i = 0; i < kMagnitudeClasses; ++i) {
        const auto [least, bits] = kClasses[i];
        for (std::uint64_t j = least; j < classes.size() && j - least < std::uint64_t{1} << bits; ++j)
            classes[j] = static_cast<std::uint8_t>(i);
    }
    return classes;
}();

inline std::size_t class_of(std::uint64_t magnitude) {
    if (magnitude < kSmallClasses.size()) return kSmallClasses[magnitude];
    const auto width = static_cast<unsigned>(std::bit_width(magnitude));
    if (width <= 16) return 7 + 4 * (width - 4) + ((magnitude >> (width - 3)) & 3);
    return width <= 32 ? 59 + 2 * (width - 17) + ((magnitude >> (width - 2)) & 1) : 91 + width - 33;
}

// Calls `work` with the type of a word and whether it is a float's.
template <class Work>
auto with_words(const WordTraits& traits, const Work& work) {
    const auto with_word = [&](auto word) {
        return traits.is_float ? work(word, std::true_type{}) : work(word, std::false_type{});
    };
    switch (traits.bytes) {
        case 1: return with_word(std::uint8_t{});
        case 2: return with_word(std::uint16_t{});
        case 4: return with_word(std::uint32_t{});
        default: return with_word(std::uint64_t{});
    }
}

}  // namespace metaq::difference
