// The arithmetic that values are defined by, in threads that an application has set otherwise.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace metaq {

// Floats as a program begins with them, until the end of a scope: rounded to nearest, and subnormal ones kept, which threads
// that flush them to zero (FTZ, DAZ) take for 0. The thread then has its own again. On other processors than x86 and AArch64
// they are as they are set. <cfenv> would do the same, but takes a library that programs in C do not link.
class DefaultFloats {
public:
    DefaultFloats() : before_(control()) { set_control(kDefault); }
    ~DefaultFloats() { set_control(before_); }
    DefaultFloats(const DefaultFloats&) = delete;
    DefaultFloats& operator=(const DefaultFloats&) = delete;

private:
#if defined(__SSE2__) || defined(_M_X64)
    static constexpr std::uint64_t kDefault = 0x1f80;  // no exception is a signal
    static std::uint64_t control() { return _mm_getcsr(); }
    static void write_control(std::uint64_t control) { _mm_setcsr(static_cast<unsigned>(control)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t kDefault = 0;
    static std::uint64_t control() {
        std::uint64_t control;
        asm volatile("mrs %0, fpcr" : "=r"(control));
        return control;
    }
    static void write_control(std::uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
#else
    static constexpr std::uint64_t kDefault = 0;
    static std::uint64_t control() { return kDefault; }
    static void write_control(std::uint64_t) {}
#endif

    static void set_control(std::uint64_t control) {
        std::atomic_signal_fence(std::memory_order_seq_cst);  // what is read from memory is computed on this side
        write_control(control);
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }

    std::uint64_t before_;
};

}  // namespace metaq
