// Products of matrices whose blocks stay in the caches: one operand is read number by number, the other in vectors.
//
// Strides say which axis of the first operand is summed over, so one kernel makes a layer's outputs, the gradients of its
// inputs and those of its weights. A sum starts from what `begin` gives and ends in `finish`, so that whatever belongs
// before and behind a product (biases, gates, activations) happens while it is in registers. Sums run in order of the depth,
// so a number does not depend on what else is in its block.
#pragma once

#include <algorithm>

#include "vector_math.hpp"

namespace caloforge {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockRows = 12;  // with two columns of vectors: 24 sums in 32 registers
#else
constexpr int kBlockRows = 6;  // 12 in 16
#endif
constexpr int kBlockColumns = 2;
template <class S>
constexpr int kBlockWidth = kBlockColumns * kLanes<S>;

template <class S>
constexpr int padded(int columns) {
    return (columns + kBlockWidth<S> - 1) / kBlockWidth<S> * kBlockWidth<S>;
}

// The operand that is read number by number: number (r, t) stands at data[r * row + t * step].
template <class S>
struct Numbers {
    const S* data;
    ptrdiff_t row, step;
};

// Memory that will be needed next: a little of it is asked for in every step of a product.
template <class S>
struct Ahead {
    const S* at = nullptr;
    ptrdiff_t step = 0;

    // From `begin` on, `length` numbers in the course of a product of that size.
    static Ahead over(const S* begin, int64_t length, int rows, int width, int depth) {
        const int64_t steps = int64_t((rows + kBlockRows - 1) / kBlockRows) * (padded<S>(width) / kBlockWidth<S>) * depth;
        return {begin, steps ? ptrdiff_t((length + steps - 1) / steps) : 0};
    }
};

// finish(r, c, begin(r, c) + sum over t < depth of number (r, t) * vector (t, c)), for some rows and columns of vectors.
template <class S, int Rows, int Columns, class Begin, class Finish>
inline void block(Numbers<S> numbers, int depth, const S* vectors, ptrdiff_t stride, int row, int column, const Begin& begin,
                  const Finish& finish, Ahead<S>& ahead) {
    constexpr int L = kLanes<S>, group = 4, groups = (Rows + group - 1) / group;
    Vec<S> sum[Rows][Columns];
    CALOFORGE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        CALOFORGE_UNROLL
        for (int c = 0; c < Columns; ++c) sum[r][c] = begin(row + r, column + c * L);
    }
    // A pointer for every fourth row: as many as there are rows would not fit into the registers.
    const S* at[groups];
    for (int g = 0; g < groups; ++g) at[g] = numbers.data + (row + g * group) * numbers.row;
    const ptrdiff_t each = numbers.row, step = numbers.step, ahead_step = ahead.step;
    const S *in = vectors + column, *next = ahead.at;
    for (int t = 0; t < depth; ++t) {
        Vec<S> x[Columns];
        CALOFORGE_UNROLL
        for (int c = 0; c < Columns; ++c) x[c] = load(in + c * L);
        in += stride;
        __builtin_prefetch(next, 0, 2);
        next += ahead_step;
        CALOFORGE_UNROLL
        for (int r = 0; r < Rows; ++r) {
            const Vec<S> number = splat<S>(at[r / group][(r % group) * each]);
            CALOFORGE_UNROLL
            for (int c = 0; c < Columns; ++c) sum[r][c] = fused(number, x[c], sum[r][c]);
        }
        CALOFORGE_UNROLL
        for (int g = 0; g < groups; ++g) at[g] += step;
    }
    ahead.at = next;
    CALOFORGE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        CALOFORGE_UNROLL
        for (int c = 0; c < Columns; ++c) finish(row + r, column + c * L, sum[r][c]);
    }
}

template <class S, int Columns, int First, int... Others, class Begin, class Finish>
inline void rows_in_portions(int row, int end, Numbers<S> numbers, int depth, const S* vectors, ptrdiff_t stride, int column,
                             const Begin& begin, const Finish& finish, Ahead<S>& ahead) {
    for (; row + First <= end; row += First)
        block<S, First, Columns>(numbers, depth, vectors, stride, row, column, begin, finish, ahead);
    if constexpr (sizeof...(Others) > 0)
        rows_in_portions<S, Columns, Others...>(row, end, numbers, depth, vectors, stride, column, begin, finish, ahead);
}

template <class S, int Columns, class Begin, class Finish>
__attribute__((noinline)) void all_rows(int rows, Numbers<S> numbers, int depth, const S* vectors, ptrdiff_t stride, int column,
                                        const Begin& begin, const Finish& finish, Ahead<S>& ahead) {
    // 23 rows, the parameters of a spline with 8 bins, go in two portions.
    if constexpr (kBlockRows == 12)
        rows_in_portions<S, Columns, 12, 11, 8, 4, 2, 1>(0, rows, numbers, depth, vectors, stride, column, begin, finish, ahead);
    else
        rows_in_portions<S, Columns, 6, 5, 4, 2, 1>(0, rows, numbers, depth, vectors, stride, column, begin, finish, ahead);
}

// All rows, and columns up to `width`, a whole number of vectors. begin(row, column) gives a vector, finish takes one.
template <class S, class Begin, class Finish>
inline void product_of_blocks(int rows, Numbers<S> numbers, int depth, const S* vectors, ptrdiff_t stride, int width,
                              const Begin& begin, const Finish& finish, Ahead<S> ahead = {}) {
    if (!ahead.at) ahead.at = vectors;
    int c = 0;
    for (; c + kBlockWidth<S> <= width; c += kBlockWidth<S>)
        all_rows<S, kBlockColumns>(rows, numbers, depth, vectors, stride, c, begin, finish, ahead);
    for (; c < width; c += kLanes<S>) all_rows<S, 1>(rows, numbers, depth, vectors, stride, c, begin, finish, ahead);
}

// The usual beginnings and ends.
template <class S>
inline auto from_zero() {
    return [](int, int) __attribute__((always_inline)) { return Vec<S>{}; };
}
template <class S>
inline auto from_matrix(const S* start, ptrdiff_t stride) {
    return [=](int r, int c) __attribute__((always_inline)) { return load(start + r * stride + c); };
}
template <class S>
inline auto into_matrix(S* out, ptrdiff_t stride) {
    return [=](int r, int c, Vec<S> v) __attribute__((always_inline)) { store(out + r * stride + c, v); };
}

// A bias comes last: a sum of small numbers that began with a large one would be rounded at every step.
template <class S>
inline auto into_matrix_with_bias(const S* bias, S* out, ptrdiff_t stride) {
    return [=](int r, int c, Vec<S> v) __attribute__((always_inline)) { store(out + r * stride + c, v + splat<S>(bias[r])); };
}

template <class S>
inline Vec<S> load_some(const S* from, int count) {
    Vec<S> v{};
    std::memcpy(&v, from, sizeof(S) * count);
    return v;
}
template <class S>
inline void store_some(S* to, int count, Vec<S> v) {
    std::memcpy(to, &v, sizeof(S) * count);
}
// A vector of which only those lanes count that lie before the end of a row.
template <class S>
inline Vec<S> load_before(const S* from, int left) {
    return left >= kLanes<S> ? load(from) : load_some(from, std::max(0, left));
}
template <class S>
inline void store_before(S* to, int left, Vec<S> v) {
    if (left >= kLanes<S>)
        store(to, v);
    else if (left > 0)
        store_some(to, left, v);
}

// Write what nobody will read soon past the caches, so that it need not be read from memory first; `end_stream` behind it.
template <class S>
inline void stream_out(const S* from, int64_t count, S* to) {
#if defined(__SSE2__)
    constexpr int L = kLanes<S>;
    int64_t k = 0;
    for (; k < count && reinterpret_cast<uintptr_t>(to + k) % kVectorBytes; ++k) to[k] = from[k];
    for (; k + L <= count; k += L) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + k), (__m512i)load(from + k));
#elif defined(__AVX__)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + k), (__m256i)load(from + k));
#else
        _mm_stream_si128(reinterpret_cast<__m128i*>(to + k), (__m128i)load(from + k));
#endif
    }
    for (; k < count; ++k) to[k] = from[k];
#else
    std::copy(from, from + count, to);
#endif
}
inline void end_stream() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace caloforge
