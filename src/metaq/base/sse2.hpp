// SSE2's intrinsics, and METAQ_SSE2 where there are any: those of x86, or WebAssembly's vectors under their names. METAQ_NO_SIMD
// leaves them out.
#pragma once

#if defined(__SSE2__) && !defined(METAQ_NO_SIMD)

#define METAQ_SSE2 1
#include <emmintrin.h>

#elif defined(__wasm_simd128__) && !defined(METAQ_NO_SIMD)

#define METAQ_SSE2 1
#include <wasm_simd128.h>

#include <cstdint>
#include <cstring>

namespace metaq {

using __m128i = v128_t;
using __m128 = v128_t;

// clang-format off
inline __m128i _mm_setzero_si128() { return wasm_i32x4_const_splat(0); }
inline __m128i _mm_set1_epi16(short a) { return wasm_i16x8_splat(a); }
inline __m128i _mm_set1_epi32(int a) { return wasm_i32x4_splat(a); }
inline __m128i _mm_set_epi32(int d, int c, int b, int a) { return wasm_i32x4_make(a, b, c, d); }
inline __m128i _mm_setr_epi16(short a, short b, short c, short d, short e, short f, short g, short h) { return wasm_i16x8_make(a, b, c, d, e, f, g, h); }
inline __m128i _mm_cvtsi32_si128(int a) { return wasm_i32x4_make(a, 0, 0, 0); }
inline int _mm_cvtsi128_si32(__m128i a) { return wasm_i32x4_extract_lane(a, 0); }

inline __m128i _mm_load_si128(const __m128i* from) { return wasm_v128_load(from); }
inline __m128i _mm_loadu_si128(const __m128i* from) { return wasm_v128_load(from); }
inline __m128i _mm_loadl_epi64(const __m128i* from) { return wasm_v128_load64_zero(from); }
inline void _mm_store_si128(__m128i* to, __m128i a) { wasm_v128_store(to, a); }
inline void _mm_storeu_si128(__m128i* to, __m128i a) { wasm_v128_store(to, a); }
inline void _mm_storel_epi64(__m128i* to, __m128i a) { wasm_v128_store64_lane(to, a, 0); }

inline __m128i _mm_and_si128(__m128i a, __m128i b) { return wasm_v128_and(a, b); }
inline __m128i _mm_or_si128(__m128i a, __m128i b) { return wasm_v128_or(a, b); }
inline __m128i _mm_xor_si128(__m128i a, __m128i b) { return wasm_v128_xor(a, b); }
inline __m128i _mm_add_epi16(__m128i a, __m128i b) { return wasm_i16x8_add(a, b); }
inline __m128i _mm_add_epi32(__m128i a, __m128i b) { return wasm_i32x4_add(a, b); }
inline __m128i _mm_sub_epi16(__m128i a, __m128i b) { return wasm_i16x8_sub(a, b); }
inline __m128i _mm_sub_epi32(__m128i a, __m128i b) { return wasm_i32x4_sub(a, b); }
inline __m128i _mm_adds_epi16(__m128i a, __m128i b) { return wasm_i16x8_add_sat(a, b); }
inline __m128i _mm_subs_epi16(__m128i a, __m128i b) { return wasm_i16x8_sub_sat(a, b); }
inline __m128i _mm_mullo_epi16(__m128i a, __m128i b) { return wasm_i16x8_mul(a, b); }
inline __m128i _mm_madd_epi16(__m128i a, __m128i b) { return wasm_i32x4_dot_i16x8(a, b); }
inline __m128i _mm_mulhi_epu16(__m128i a, __m128i b) { return wasm_i16x8_shuffle(wasm_u32x4_extmul_low_u16x8(a, b), wasm_u32x4_extmul_high_u16x8(a, b), 1, 3, 5, 7, 9, 11, 13, 15); }
inline __m128i _mm_mul_epu32(__m128i a, __m128i b) { return wasm_u64x2_extmul_low_u32x4(wasm_i32x4_shuffle(a, a, 0, 2, 0, 2), wasm_i32x4_shuffle(b, b, 0, 2, 0, 2)); }
inline __m128i _mm_min_epi16(__m128i a, __m128i b) { return wasm_i16x8_min(a, b); }
inline __m128i _mm_max_epi16(__m128i a, __m128i b) { return wasm_i16x8_max(a, b); }
inline __m128i _mm_cmpgt_epi16(__m128i a, __m128i b) { return wasm_i16x8_gt(a, b); }
inline __m128i _mm_cmplt_epi16(__m128i a, __m128i b) { return wasm_i16x8_lt(a, b); }
inline __m128i _mm_cmpgt_epi32(__m128i a, __m128i b) { return wasm_i32x4_gt(a, b); }
inline __m128i _mm_cmplt_epi32(__m128i a, __m128i b) { return wasm_i32x4_lt(a, b); }
inline int _mm_movemask_epi8(__m128i a) { return static_cast<int>(wasm_i8x16_bitmask(a)); }

// Counts are below the width of what is shifted.
inline __m128i _mm_srai_epi32(__m128i a, unsigned count) { return wasm_i32x4_shr(a, count); }
inline __m128i _mm_srli_epi64(__m128i a, unsigned count) { return wasm_u64x2_shr(a, count); }
inline __m128i _mm_slli_epi64(__m128i a, unsigned count) { return wasm_i64x2_shl(a, count); }
inline __m128i _mm_sra_epi32(__m128i a, __m128i count) { return wasm_i32x4_shr(a, static_cast<unsigned>(_mm_cvtsi128_si32(count))); }
inline __m128i _mm_srl_epi64(__m128i a, __m128i count) { return wasm_u64x2_shr(a, static_cast<unsigned>(_mm_cvtsi128_si32(count))); }

inline __m128i _mm_packs_epi16(__m128i a, __m128i b) { return wasm_i8x16_narrow_i16x8(a, b); }
inline __m128i _mm_packs_epi32(__m128i a, __m128i b) { return wasm_i16x8_narrow_i32x4(a, b); }
inline __m128i _mm_unpacklo_epi8(__m128i a, __m128i b) { return wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
inline __m128i _mm_unpackhi_epi8(__m128i a, __m128i b) { return wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }
inline __m128i _mm_unpacklo_epi16(__m128i a, __m128i b) { return wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline __m128i _mm_unpackhi_epi16(__m128i a, __m128i b) { return wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline __m128i _mm_unpacklo_epi32(__m128i a, __m128i b) { return wasm_i32x4_shuffle(a, b, 0, 4, 1, 5); }
inline __m128i _mm_unpackhi_epi32(__m128i a, __m128i b) { return wasm_i32x4_shuffle(a, b, 2, 6, 3, 7); }
inline __m128i _mm_unpacklo_epi64(__m128i a, __m128i b) { return wasm_i64x2_shuffle(a, b, 0, 2); }
inline __m128i _mm_unpackhi_epi64(__m128i a, __m128i b) { return wasm_i64x2_shuffle(a, b, 1, 3); }
inline __m128 _mm_castsi128_ps(__m128i a) { return a; }
inline __m128i _mm_castps_si128(__m128 a) { return a; }

// These take constants, which macros keep.
#define _mm_extract_epi16(a, lane) static_cast<int>(wasm_u16x8_extract_lane(a, lane))
#define _mm_slli_si128(a, bytes) (static_cast<__m128i>(__builtin_wasm_shuffle_i8x16(wasm_i32x4_const_splat(0), a, 16 - (bytes), 17 - (bytes), 18 - (bytes), 19 - (bytes), 20 - (bytes), 21 - (bytes), 22 - (bytes), 23 - (bytes), 24 - (bytes), 25 - (bytes), 26 - (bytes), 27 - (bytes), 28 - (bytes), 29 - (bytes), 30 - (bytes), 31 - (bytes))))
#define _mm_srli_si128(a, bytes) (static_cast<__m128i>(__builtin_wasm_shuffle_i8x16(a, wasm_i32x4_const_splat(0), (bytes), (bytes) + 1, (bytes) + 2, (bytes) + 3, (bytes) + 4, (bytes) + 5, (bytes) + 6, (bytes) + 7, (bytes) + 8, (bytes) + 9, (bytes) + 10, (bytes) + 11, (bytes) + 12, (bytes) + 13, (bytes) + 14, (bytes) + 15)))
#define _mm_shuffle_epi32(a, lanes) wasm_i32x4_shuffle(a, a, (lanes) & 3, (lanes) >> 2 & 3, (lanes) >> 4 & 3, (lanes) >> 6 & 3)
#define _mm_shufflehi_epi16(a, lanes) wasm_i16x8_shuffle(a, a, 0, 1, 2, 3, 4 + ((lanes) & 3), 4 + ((lanes) >> 2 & 3), 4 + ((lanes) >> 4 & 3), 4 + ((lanes) >> 6 & 3))
#define _mm_shuffle_ps(a, b, lanes) wasm_i32x4_shuffle(a, b, (lanes) & 3, (lanes) >> 2 & 3, 4 + ((lanes) >> 4 & 3), 4 + ((lanes) >> 6 & 3))
// clang-format on

}  // namespace metaq

#endif
