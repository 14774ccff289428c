// Vectors of floating-point lanes with exp, log and softplus good to rounding, in portable GCC/Clang vector extensions.
//
// Polynomials are Chebyshev fits made for this file; the largest relative error of each, before rounding, is noted.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Loops over registers must disappear completely, or the registers become memory.
#if defined(__clang__)
#define CALOFORGE_UNROLL _Pragma("unroll")
#else
#define CALOFORGE_UNROLL _Pragma("GCC unroll 32")
#endif

namespace caloforge {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class S>
struct Simd;

template <>
struct Simd<float> {
    typedef float V __attribute__((vector_size(kVectorBytes)));
    typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(kVectorBytes)));
    static constexpr int32_t bias = 127, mantissa_bits = 23;
    static constexpr float smallest_exp = -87.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <>
struct Simd<double> {
    typedef double V __attribute__((vector_size(kVectorBytes)));
    typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(kVectorBytes)));
    static constexpr int64_t bias = 1023, mantissa_bits = 52;
    static constexpr double smallest_exp = -708.0, ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
};

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

template <class S>
using Vec = typename Simd<S>::V;
template <class S>
constexpr int kLanes = kVectorBytes / int(sizeof(S));

template <class S>
inline Vec<S> load(const S* p) {
    return *reinterpret_cast<const typename Simd<S>::Unaligned*>(p);
}
template <class S>
inline void store(S* p, Vec<S> v) {
    *reinterpret_cast<typename Simd<S>::Unaligned*>(p) = v;
}
template <class S>
inline Vec<S> splat(S value) {
    return value - Vec<S>{};  // folds to a broadcast; adding zero would not, because of -0
}
template <class V>
inline V smaller(V a, V b) {
    return a < b ? a : b;
}
// The larger of both, but a NaN in `value` stays: broken weights must not give plausible showers.
template <class V>
inline V at_least(V value, V least) {
    return value < least ? least : value;
}

// a * b + c, rounded once where the processor can. Compilation forbids contraction elsewhere, so that equal source means
// equal bits: whatever the number of showers in a tile, and forwards as backwards through a spline.
inline Vec<float> fused(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vec<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
inline Vec<double> fused(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (Vec<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

inline Vec<float> square_root(Vec<float> x) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (Vec<float>)_mm256_sqrt_ps((__m256)x);
#else
    Vec<float> y;
    for (int k = 0; k < kLanes<float>; ++k) y[k] = std::sqrt(x[k]);
    return y;
#endif
}
inline Vec<double> square_root(Vec<double> x) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
    return (Vec<double>)_mm256_sqrt_pd((__m256d)x);
#else
    Vec<double> y;
    for (int k = 0; k < kLanes<double>; ++k) y[k] = std::sqrt(x[k]);
    return y;
#endif
}

// Horner's rule, highest power first.
template <class S, size_t N>
inline Vec<S> polynomial(const S (&coefficients)[N], Vec<S> x) {
    Vec<S> value = splat(coefficients[0]);
    CALOFORGE_UNROLL
    for (size_t k = 1; k < N; ++k) value = fused(value, x, splat(coefficients[k]));
    return value;
}

template <class S>
struct Series;

// exp_tail: (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, relative error of exp 8e-9 (float), 1.3e-17 (double).
// atanh_tail: (atanh(s)/s - 1) / s^2 in powers of s^2 on 0 <= s <= 1/3, relative error of atanh 4e-10, 1.4e-19.
template <>
struct Series<float> {
    static constexpr float exp_tail[] = {
        0.0013926250831497612f, 0.0083632328836826182f, 0.041666554212984150f, 0.16666576666119928f, 0.5f};
    static constexpr float atanh_tail[] = {
        0.11612756797318567f, 0.10853173133337130f, 0.14296185799181208f, 0.19999853040833045f,
        0.33333333660607889f};
};
template <>
struct Series<double> {
    static constexpr double exp_tail[] = {
        2.5100472505694996e-8, 2.7620201591031549e-7, 2.7557268276905696e-6, 2.4801521057868205e-5,
        1.9841269863171556e-4, 0.0013888888917367081, 0.0083333333333300382, 0.041666666666623821,
        0.16666666666666667, 0.50000000000000011};
    static constexpr double atanh_tail[] = {
        0.078162458884086084826, 0.037455674947931659478, 0.054227018561741904853, 0.05867125645464236441,
        0.066675903460844560877, 0.076922719353071220985, 0.090909099502871038051, 0.11111111099097718263,
        0.14285714285800214696, 0.19999999999999760745, 0.33333333333333333443};
};

// exp(x) for x <= 0 (all that softmax and softplus need), and as good up to x = 80; below the smallest normal number it
// stays there.
template <class S>
inline Vec<S> exp_negative(Vec<S> x) {
    using M = Simd<S>;
    const S shift = S(1.5) * S(uint64_t(1) << M::mantissa_bits);  // adding it rounds to an integer
    x = at_least(x, splat<S>(M::smallest_exp));
    const Vec<S> n = fused(x, splat(S(1.4426950408889634074)), splat(shift)) - shift;
    const Vec<S> r = fused(n, splat(-M::ln2_low), fused(n, splat(-M::ln2_high), x));
    const Vec<S> e = fused(r * r, polynomial(Series<S>::exp_tail, r), r) + S(1);
    const typename M::I bits = __builtin_convertvector(n, typename M::I);
    return e * (Vec<S>)((bits + M::bias) << M::mantissa_bits);
}

// log(x) for positive normal x; a NaN stays.
template <class S>
inline Vec<S> log_positive(Vec<S> x) {
    using M = Simd<S>;
    using I = typename M::I;
    // Exponent such that the mantissa lies in [sqrt(1/2), sqrt(2)).
    const Vec<S> root_half = splat<S>(S(0.70710678118654752440));
    const I offset = (I)root_half;
    const I exponent = ((I)x - offset) >> M::mantissa_bits;
    const Vec<S> m = (Vec<S>)((I)x - (exponent << M::mantissa_bits));
    const Vec<S> s = (m - S(1)) / (m + S(1));
    const Vec<S> t = s * s;
    const Vec<S> n = __builtin_convertvector(exponent, Vec<S>);
    const Vec<S> twice = s + s;
    const Vec<S> tail = fused(twice * t, polynomial(Series<S>::atanh_tail, t), n * M::ln2_low);
    return x == x ? fused(n, splat(M::ln2_high), twice + tail) : x;
}

// log(1 + exp(v)); above 20 it is v, as in PyTorch.
template <class S>
inline Vec<S> softplus(Vec<S> v) {
    const Vec<S> u = exp_negative<S>(v > S(0) ? -v : v);
    const Vec<S> s = u / (u + S(2));
    const Vec<S> t = s * s;
    const Vec<S> twice = s + s;
    const Vec<S> log1p = fused(twice * t, polynomial(Series<S>::atanh_tail, t), twice);
    const Vec<S> positive = v > S(0) ? v : Vec<S>{};
    return v > S(20) ? v : positive + log1p;
}

}  // namespace caloforge
