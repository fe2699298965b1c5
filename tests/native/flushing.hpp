// Included before a program: its first thread takes subnormal floats for zero and rounds upwards, as applications may set it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace {

[[gnu::constructor]] void flush_and_round_up() {
#if defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 0x8040u | 0x4000u);
#elif defined(__aarch64__)
    const std::uint64_t control = 1u << 24 | 1u << 22;
    asm volatile("msr fpcr, %0" : : "r"(control));
#else
#error "no way to flush subnormal floats is known here"
#endif
    volatile float subnormal = 1e-40f, one = 1.0f, least = 1e-9f;
    if (subnormal * one == 0.0f && one + least > one) return;
    std::fputs("expected arithmetic that flushes and rounds upwards, found other\n", stderr);
    std::abort();
}

}  // namespace
