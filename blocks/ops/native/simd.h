// Vectors of floats as wide as the processor's, and the functions of them that the kernels need.
// Plain C++ with the vector extensions of GCC and Clang; intrinsics only for what those lack.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE__)
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(LANES * sizeof(int32_t))));

// A state that fades out ends in denormal numbers, which cost a hundred times as much as zeros.
class NoDenormals {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();

  public:
    NoDenormals() { _mm_setcsr(before | 0x8040); }
    ~NoDenormals() { _mm_setcsr(before); }
#else
  public:
    NoDenormals() {}
#endif
};

INLINE Vec all(float value) { return Vec{} + value; }

// The first `count` lanes; the others are 0.
INLINE Vec load(const float* from, int64_t count = LANES) {
    if (count >= LANES) {
        Vec x;  // a variable of its own: one of which a part is copied lives in memory
        memcpy(&x, from, sizeof(Vec));
        return x;
    }
    Vec part = {};
    memcpy(&part, from, count * sizeof(float));
    return part;
}

INLINE void store(float* to, Vec x, int64_t count = LANES) {
    if (count >= LANES)
        memcpy(to, &x, sizeof(Vec));
    else
        memcpy(to, &x, count * sizeof(float));
}

// Numbers of eight bits, and of bfloat16, which is the upper half of a float. Compilers take the former apart one by one.
INLINE Vec widened(const int8_t* from, int64_t count = LANES) {
    int8_t bytes[LANES] = {};
    if (count < LANES) from = (const int8_t*)memcpy(bytes, from, count);
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
#elif defined(__AVX2__)
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#elif defined(__SSE2__) && !defined(__AVX__)
    int32_t four;
    memcpy(&four, from, sizeof(four));
    __m128i twice = _mm_cvtsi32_si128(four);
    twice = _mm_unpacklo_epi8(twice, twice);
    return (Vec)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24));
#else
    Vec x;
    for (int lane = 0; lane < LANES; lane++) x[lane] = from[lane];
    return x;
#endif
}

INLINE Vec widened(const uint16_t* from, int64_t count = LANES) {
    typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t))));
    Halves upper = {};
    if (count >= LANES)
        memcpy(&upper, from, sizeof(Halves));
    else
        memcpy(&upper, from, count * sizeof(uint16_t));
    return (Vec)(__builtin_convertvector(upper, Ints) << 16);
}

INLINE Vec widened(const float* from, int64_t count = LANES) { return load(from, count); }

// What is wanted soon: rows far apart are not foreseen by the processor. Any address will do.
INLINE void will_read(const float* address) { __builtin_prefetch(address, 0, 2); }
INLINE void will_write(const float* address) { __builtin_prefetch(address, 1, 2); }

// In fours: sixteen additions one after the other would each wait for the one before.
INLINE float sum(Vec x) {
    typedef float Four __attribute__((vector_size(4 * sizeof(float))));
    Four fours[LANES / 4], total = {};
    memcpy(fours, &x, sizeof(Vec));
    for (Four four : fours) total += four;
    return (total[0] + total[1]) + (total[2] + total[3]);
}

// Rows become columns.
INLINE void transpose(Vec rows[LANES]) {
#if defined(__AVX512F__)
    __m512 *r = (__m512*)rows, t[LANES];
    auto pairs = [](__m512 a, __m512 b, bool high) __attribute__((always_inline)) {
        __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
        return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
    };
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)  // of four rows now four columns in each quarter
        for (int j = 0; j < 4; j++) r[i + j] = pairs(t[i + j / 2], t[i + j / 2 + 2], j % 2);
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + 4 + j], 0x88);
            t[i + 4 + j] = _mm512_shuffle_f32x4(r[i + j], r[i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xdd);
    }
#else
    float numbers[LANES][LANES];
    memcpy(numbers, rows, sizeof(numbers));
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) rows[i][j] = numbers[j][i];
#endif
}

// x where one of the two is NaN. Of a choice whose bound is a constant compilers make more than one instruction.
#if defined(__AVX512F__)
INLINE Vec larger(Vec x, Vec y) { return (Vec)_mm512_max_ps((__m512)y, (__m512)x); }
INLINE Vec smaller(Vec x, Vec y) { return (Vec)_mm512_min_ps((__m512)y, (__m512)x); }
#elif defined(__AVX__)
INLINE Vec larger(Vec x, Vec y) { return (Vec)_mm256_max_ps((__m256)y, (__m256)x); }
INLINE Vec smaller(Vec x, Vec y) { return (Vec)_mm256_min_ps((__m256)y, (__m256)x); }
#else
INLINE Vec larger(Vec x, Vec y) { return x < y ? y : x; }
INLINE Vec smaller(Vec x, Vec y) { return x > y ? y : x; }
#endif

// 2^x to 1e-7 of itself: 2^n 2^r with n the nearest integer. Exactly 0 below 2^-126.5, 2^127 from there on; NaN stays.
INLINE Vec exp2_of(Vec x) {
    const float shift = 12582912.f + 127.f;  // 1.5 * 2^23: what is added to it is rounded to an integer in its low bits
    x = smaller(larger(x, all(-127.f)), all(127.f));
    Vec shifted = x + shift;
    Vec r = x - (shifted - shift);
    Vec p = all(1.54531634e-4f);  // fitted to (2^r - 1) / r from -1/2 to 1/2
    p = p * r + 1.33908633e-3f;
    p = p * r + 9.61808302e-3f;
    p = p * r + 5.55035695e-2f;
    p = p * r + 2.40226507e-1f;
    p = p * r + 6.93147182e-1f;
    p = p * r + 1.f;
    return p * (Vec)((Ints)shifted << 23);
}

// e^x to 1e-7 (1 + |x|) of itself.
INLINE Vec exp_of(Vec x) { return exp2_of(x * 1.4426950408889634f); }

INLINE Vec sigmoid(Vec x) { return 1.f / (1.f + exp_of(-x)); }

// log(1 + e) for e from 0 to 1, to 1e-7 of itself: 2 atanh(s) with s = e / (2 + e).
INLINE Vec log1p_of(Vec e) {
    Vec s = e / (2.f + e), q = s * s;
    Vec p = all(1.f / 15);
    p = p * q + 1.f / 13;
    p = p * q + 1.f / 11;
    p = p * q + 1.f / 9;
    p = p * q + 1.f / 7;
    p = p * q + 1.f / 5;
    p = p * q + 1.f / 3;
    return 2.f * (s + s * q * p);
}

INLINE Vec softplus(Vec x) {
    Vec magnitude = (Vec)((Ints)x & 0x7fffffff);
    return larger(x, Vec{}) + log1p_of(exp_of(-magnitude));
}
