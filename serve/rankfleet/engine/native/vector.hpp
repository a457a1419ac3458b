// Sixteen floats at a time: element types, loads and stores, and the functions a transformer needs.
#pragma once
#include <immintrin.h>

#include <cstdint>

using Vec = __m512;
constexpr int LANES = 16;

// Element types of matrix products. A 32-bit unit holds UNIT of them along the inner dimension.
struct Float32 {
    using Element = float;
    static constexpr int UNIT = 1;
};
struct Bfloat16 {
    using Element = uint16_t;
    static constexpr int UNIT = 2;
};
struct Int8 {
    using Element = uint8_t;
    static constexpr int UNIT = 4;
};

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec v) { _mm512_storeu_ps(to, v); }

// A bfloat16 is the upper half of a float.
inline Vec load(const uint16_t* from) {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store(uint16_t* to, Vec v) {
#ifdef __AVX512BF16__
    __m256i half = (__m256i)_mm512_cvtneps_pbh(v);
#else  // round to nearest even by hand
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
}

inline Vec all(float value) { return _mm512_set1_ps(value); }

// 2^x: the whole part by exponent, the rest r in [-1/2, 1/2] by its Taylor series Σ (r ln 2)^k / k!, truncated where
// the remainder is below the element's precision (5e-9 for float32, 4e-5 for bfloat16).
template <class E>
inline Vec exp2(Vec x) {
    Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    Vec r = _mm512_sub_ps(x, whole);
    constexpr float c[] = {1.f, .693147181f, .240226507f, .0555041087f, .00961812911f, .00133335581f, 1.54035304e-4f, 1.52527338e-5f};
    constexpr int last = sizeof(typename E::Element) == 4 ? 7 : 4;
    Vec sum = all(c[last]);
    for (int k = last - 1; k >= 0; k--) sum = _mm512_fmadd_ps(sum, r, all(c[k]));
    return _mm512_scalef_ps(sum, whole);
}

// GELU: x Φ(x), with Φ from Abramowitz & Stegun's erf, 7.1.26 (error below 1.5e-7) for float32, else 7.1.25 (2.5e-5).
template <class E>
inline Vec gelu(Vec x) {
    constexpr bool exact = sizeof(typename E::Element) == 4;
    Vec z = _mm512_mul_ps(_mm512_abs_ps(x), all(.707106781f));
    Vec below = _mm512_fmadd_ps(z, all(exact ? .3275911f : .47047f), all(1.f));
    Vec t = exact ? _mm512_div_ps(all(1.f), below) : _mm512_rcp14_ps(below);
    Vec tail = all(exact ? 1.061405429f : .7478556f);
    if (exact) {
        tail = _mm512_fmadd_ps(tail, t, all(-1.453152027f));
        tail = _mm512_fmadd_ps(tail, t, all(1.421413741f));
        tail = _mm512_fmadd_ps(tail, t, all(-.284496736f));
        tail = _mm512_fmadd_ps(tail, t, all(.254829592f));
    } else {
        tail = _mm512_fmadd_ps(tail, t, all(-.0958798f));
        tail = _mm512_fmadd_ps(tail, t, all(.3480242f));
    }
    Vec fall = exp2<E>(_mm512_mul_ps(_mm512_mul_ps(z, z), all(-1.44269504f)));
    Vec upper = _mm512_mul_ps(_mm512_mul_ps(tail, t), _mm512_mul_ps(fall, all(.5f)));  // 1 - Φ(|x|)
    Vec phi = _mm512_mask_sub_ps(upper, _mm512_cmp_ps_mask(x, all(0.f), _CMP_GE_OQ), all(1.f), upper);
    return _mm512_mul_ps(x, phi);
}
