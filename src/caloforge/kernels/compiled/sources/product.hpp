// Products of packed weights with activations whose lanes are rows of the batch (showers or points).
#pragma once

#include "vector_math.hpp"

namespace caloforge {

// Registers: rows x columns accumulators, `columns` vectors of activations, one broadcast weight.
constexpr int kColumns = 2;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32
#else
constexpr bool kManyRegisters = false;  // 16
#endif

// out[r] = start[r] + sum over k < depth of w[k][r] * in[k], for Rows rows and Columns vectors of showers.
// `start` is a column of biases if `start_stride` is 0 and a matrix of activations otherwise. Meanwhile the same amount of
// memory is asked for from `ahead` on: with few showers in a tile, waiting for weights takes most of the time.
template <class S, int Rows, int Columns>
inline void product(const S* w, ptrdiff_t w_stride, int depth, const S* in, ptrdiff_t in_stride, const S* start,
                    ptrdiff_t start_stride, S* out, ptrdiff_t out_stride, const S* ahead) {
    constexpr int L = kLanes<S>;
    Vec<S> sum[Rows][Columns];
    CALOFORGE_UNROLL
    for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < Columns; ++c)
            sum[r][c] = start_stride ? load(start + r * start_stride + c * L) : splat<S>(start[r]);
    for (int k = 0; k < depth; ++k) {
        __builtin_prefetch(ahead + k * w_stride, 0, 2);
        __builtin_prefetch(ahead + k * w_stride + w_stride / 2, 0, 2);
        Vec<S> x[Columns];
        for (int c = 0; c < Columns; ++c) x[c] = load(in + k * in_stride + c * L);
        CALOFORGE_UNROLL
        for (int r = 0; r < Rows; ++r) {
            const Vec<S> weight = splat<S>(w[k * w_stride + r]);
            for (int c = 0; c < Columns; ++c) sum[r][c] = fused(weight, x[c], sum[r][c]);
        }
    }
    CALOFORGE_UNROLL
    for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < Columns; ++c) store(out + r * out_stride + c * L, sum[r][c]);
}

// Any number of rows, taken in the largest portions for which there is code: the first of `First`, `Others`... that fits.
template <class S, int Columns, int First, int... Others>
inline void product_in_portions(int rows, const S* w, ptrdiff_t w_stride, int depth, const S* in, ptrdiff_t in_stride,
                                const S* start, ptrdiff_t start_stride, S* out, ptrdiff_t out_stride, const S* ahead) {
    for (; rows >= First; rows -= First) {
        product<S, First, Columns>(w, w_stride, depth, in, in_stride, start, start_stride, out, out_stride, ahead);
        w += First;
        start += First * (start_stride ? start_stride : 1);
        out += First * out_stride;
    }
    if constexpr (sizeof...(Others) > 0)
        product_in_portions<S, Columns, Others...>(rows, w, w_stride, depth, in, in_stride, start, start_stride, out, out_stride,
                                                   ahead);
}

// 23 rows, the parameters of a spline with 8 bins, go in one or two portions.
template <class S, int Columns>
__attribute__((noinline)) void product_all_rows(int rows, const S* w, ptrdiff_t w_stride, int depth, const S* in,
                                                ptrdiff_t in_stride, const S* start, ptrdiff_t start_stride, S* out,
                                                ptrdiff_t out_stride, const S* ahead) {
    if constexpr (kManyRegisters && Columns == 1)
        product_in_portions<S, Columns, 24, 23, 12, 8, 4, 2, 1>(rows, w, w_stride, depth, in, in_stride, start, start_stride,
                                                               out, out_stride, ahead);
    else if constexpr (kManyRegisters || Columns == 1)
        product_in_portions<S, Columns, 12, 11, 8, 4, 2, 1>(rows, w, w_stride, depth, in, in_stride, start, start_stride, out,
                                                           out_stride, ahead);
    else
        product_in_portions<S, Columns, 6, 5, 4, 2, 1>(rows, w, w_stride, depth, in, in_stride, start, start_stride, out,
                                                      out_stride, ahead);
}

}  // namespace caloforge
