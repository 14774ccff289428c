// Inversion of a tile of showers at once: lanes are showers, activations are stored feature by feature.
#pragma once

#include "packed_flow.hpp"

namespace caloforge {

// Registers: rows x columns accumulators, `columns` vectors of activations, one broadcast weight.
constexpr int kColumns = 2;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_rows(int columns) { return 24 / columns; }
#else
constexpr int most_rows(int columns) { return 12 / columns; }
#endif

// out[r] = start[r] + sum over k < depth of w[k][r] * in[k], for Rows rows and Columns vectors of showers.
// `start` is a column of biases if `start_stride` is 0 and a matrix of activations otherwise.
template <class S, int Rows, int Columns>
inline __attribute__((always_inline)) void product(const S* w, ptrdiff_t w_stride, int depth, const S* in, ptrdiff_t in_stride,
                                                   const S* start, ptrdiff_t start_stride, S* out, ptrdiff_t out_stride) {
    constexpr int L = kLanes<S>;
    Vec<S> sum[Rows][Columns];
    CALOFORGE_UNROLL
    for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < Columns; ++c)
            sum[r][c] = start_stride ? load(start + r * start_stride + c * L) : splat<S>(start[r]);
    for (int k = 0; k < depth; ++k) {
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

template <class S, int Columns, int Rows = most_rows(Columns)>
inline void product_rows(int rows, const S* w, ptrdiff_t w_stride, int depth, const S* in, ptrdiff_t in_stride,
                         const S* start, ptrdiff_t start_stride, S* out, ptrdiff_t out_stride) {
    if constexpr (Rows > 0) {
        if (rows == Rows)
            product<S, Rows, Columns>(w, w_stride, depth, in, in_stride, start, start_stride, out, out_stride);
        else
            product_rows<S, Columns, Rows - 1>(rows, w, w_stride, depth, in, in_stride, start, start_stride, out, out_stride);
    }
}

// Any number of rows, `columns` vectors of showers.
template <class S, int Columns>
__attribute__((noinline)) void product_all_rows(int rows, const S* w, ptrdiff_t w_stride, int depth, const S* in,
                                                ptrdiff_t in_stride, const S* start, ptrdiff_t start_stride, S* out,
                                                ptrdiff_t out_stride) {
    for (int r = 0; r < rows;) {
        const int step = std::min(rows - r, most_rows(Columns));
        product_rows<S, Columns>(step, w + r, w_stride, depth, in, in_stride, start + r * (start_stride ? start_stride : 1),
                                 start_stride, out + r * out_stride, out_stride);
        r += step;
    }
}

template <class S>
class TileInverse {
public:
    TileInverse(const PackedFlow<S>& flow, int most_vectors) : flow_(flow) {
        const FlowShape& s = flow.shape;
        const size_t width = size_t(most_vectors) * kLanes<S>;
        int units = 0;
        for (const auto& block : flow.blocks)
            for (const auto& g : block.groups) units = std::max(units, g.unit_stride);
        memory_.allocate(width * (2 * size_t(s.features) + s.context + size_t(s.layers) * (s.hidden + units) + 1));
        raw_.allocate(size_t(s.per_feature()) * kColumns * kLanes<S>);
        pre_rows_ = units;
    }

    // z, context, x are row-major (count, features) and (count, context); logdet (count).
    void run(int count, const S* z, const S* context, S* x, S* logdet) {
        const FlowShape& s = flow_.shape;
        constexpr int L = kLanes<S>;
        vectors_ = (count + L - 1) / L;
        width_ = ptrdiff_t(vectors_) * L;
        S* next = memory_.data();
        auto take = [&](size_t rows) {
            S* start = next;
            next += rows * width_;
            return start;
        };
        S* from = take(s.features);
        S* to = take(s.features);
        context_ = take(s.context);
        logdet_ = take(1);
        hidden_.clear();
        pre_.clear();
        for (int l = 0; l < s.layers; ++l) hidden_.push_back(take(s.hidden));
        for (int l = 0; l < s.layers; ++l) pre_.push_back(take(pre_rows_));

        transpose_in(z, count, s.features, from);
        if (s.context) transpose_in(context, count, s.context, context_);
        std::fill(logdet_, logdet_ + width_, S(0));
        for (const Block<S>& block : flow_.blocks) {
            invert_block(block, from, to);
            std::swap(from, to);
        }
        for (int r = 0; r < count; ++r)
            for (int i = 0; i < s.features; ++i) x[size_t(r) * s.features + i] = from[i * width_ + r];
        std::copy(logdet_, logdet_ + count, logdet);
    }

private:
    // Lanes beyond the last shower repeat it, so that they stay harmless numbers.
    void transpose_in(const S* rows, int count, int columns, S* out) const {
        for (ptrdiff_t r = 0; r < width_; ++r) {
            const S* row = rows + std::min<ptrdiff_t>(r, count - 1) * columns;
            for (int i = 0; i < columns; ++i) out[i * width_ + r] = row[i];
        }
    }

    template <class Body>
    void over_columns(Body&& body) const {
        int v = 0;
        for (; v + kColumns <= vectors_; v += kColumns) body(std::integral_constant<int, kColumns>{}, v * kLanes<S>);
        for (; v < vectors_; ++v) body(std::integral_constant<int, 1>{}, v * kLanes<S>);
    }

    void invert_block(const Block<S>& block, const S* z, S* x) {
        for (const Group<S>& g : block.groups) {
            begin_group(g, x);
            if (g.begin < block.ready[g.first]) complete(g, x, g.begin, block.ready[g.first], g.first);
            for (int i = g.first; i < g.end; ++i) {
                invert_feature(block, g, i, z + ptrdiff_t(block.source[i]) * width_, x + i * width_);
                if (block.ready[i] < block.ready[i + 1]) complete(g, x, block.ready[i], block.ready[i + 1], i + 1);
            }
        }
    }

    // What the units of this group receive from everything known before it.
    void begin_group(const Group<S>& g, const S* x) {
        const FlowShape& s = flow_.shape;
        const int units = g.stop - g.begin;
        if (!units) return;
        over_columns([&](auto columns, ptrdiff_t at) {
            constexpr int C = decltype(columns)::value;
            const S* start = g.hidden_bias[0];
            ptrdiff_t start_stride = 0;
            if (s.context) {
                product_all_rows<S, C>(units, g.context, g.unit_stride, s.context, context_ + at, width_, g.context_bias, 0,
                                       pre_[0] + at, width_);
                for (int u = 0; u < units; ++u)
                    for (int c = 0; c < C; ++c) {
                        S* p = pre_[0] + u * width_ + at + c * kLanes<S>;
                        store(p, at_least(load(p), Vec<S>{}) + g.hidden_bias[0][u]);
                    }
                start = pre_[0] + at;
                start_stride = width_;
            }
            product_all_rows<S, C>(units, g.hidden[0], g.unit_stride, g.first, x + at, width_, start, start_stride,
                                   pre_[0] + at, width_);
            for (int l = 1; l < s.layers; ++l)
                product_all_rows<S, C>(units, g.hidden[l], g.unit_stride, g.begin, hidden_[l - 1] + at, width_,
                                       g.hidden_bias[l], 0, pre_[l] + at, width_);
        });
    }

    // Finish units first .. end of every layer once `known` features are known: add what lies inside the group.
    void complete(const Group<S>& g, const S* x, int first, int end, int known) {
        const int row = first - g.begin, units = end - first;
        over_columns([&](auto columns, ptrdiff_t at) {
            constexpr int C = decltype(columns)::value;
            for (int l = 0; l < flow_.shape.layers; ++l) {
                const S* in = l ? hidden_[l - 1] + g.begin * width_ : x + g.first * width_;
                const int skipped = l ? g.begin : g.first, depth = l ? end - g.begin : known - g.first;
                S* out = hidden_[l] + first * width_ + at;
                product_all_rows<S, C>(units, g.hidden[l] + size_t(skipped) * g.unit_stride + row, g.unit_stride, depth,
                                       in + at, width_, pre_[l] + row * width_ + at, width_, out, width_);
                for (int u = 0; u < units; ++u)
                    for (int c = 0; c < C; ++c) {
                        S* p = out + u * width_ + c * kLanes<S>;
                        store(p, at_least(load(p), Vec<S>{}));
                    }
            }
        });
    }

    void invert_feature(const Block<S>& block, const Group<S>& g, int i, const S* z, S* x) {
        const FlowShape& s = flow_.shape;
        const int P = s.per_feature(), row = i - g.first;
        const S* hidden = hidden_[s.layers - 1];
        over_columns([&](auto columns, ptrdiff_t at) {
            constexpr int C = decltype(columns)::value;
            constexpr ptrdiff_t stride = C * kLanes<S>;
            product_all_rows<S, C>(P, g.raw[row], P, block.ready[i], hidden + at, width_, g.raw_bias[row], 0, raw_.data(),
                                   stride);
            for (int c = 0; c < C; ++c) {
                const ptrdiff_t lane = at + c * kLanes<S>;
                Vec<S> logdet = load(logdet_ + lane);
                const S* raw = raw_.data() + c * kLanes<S>;
                const Vec<S> value = any_spline<S, true>(raw, stride, load(z + lane), s.spline, logdet);
                store(x + lane, value);
                store(logdet_ + lane, logdet);
            }
        });
    }

    const PackedFlow<S>& flow_;
    Arena<S> memory_, raw_;
    int vectors_ = 0, pre_rows_ = 0;
    ptrdiff_t width_ = 0;
    S *context_ = nullptr, *logdet_ = nullptr;
    std::vector<S*> hidden_, pre_;
};

}  // namespace caloforge
