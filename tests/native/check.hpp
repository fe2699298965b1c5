// The few lines of a test framework that these tests need: registration, a check, and a generator of random numbers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <vector>

namespace check {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> registered;
    return registered;
}

inline bool& has_failed() {
    static bool failed = false;
    return failed;
}

inline bool register_test(const char* name, void (*run)()) {
    tests().push_back({name, run});
    return true;
}

inline void that(bool holds, const char* text, const char* file, int line) {
    if (holds) return;
    has_failed() = true;
    std::printf("%s:%d: expected %s\n", file, line, text);
}

// splitmix64: the same numbers everywhere, unlike the standard library's distributions.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        std::uint64_t value = state_ += 0x9e3779b97f4a7c15u;
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
        value = (value ^ value >> 27) * 0x94d049bb133111ebu;
        return value ^ value >> 31;
    }

    std::uint64_t below(std::uint64_t limit) { return next() % limit; }

private:
    std::uint64_t state_;
};

}  // namespace check

#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__)
#define TEST(name)                                                                                \
    static void name();                                                                           \
    [[maybe_unused]] static const bool name##_is_registered = check::register_test(#name, &name); \
    static void name()
