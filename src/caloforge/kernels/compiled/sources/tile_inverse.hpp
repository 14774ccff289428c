// Inversion of a tile of showers at once: lanes are showers, activations are stored feature by feature.
#pragma once

#include "arena.hpp"
#include "packed_flow.hpp"
#include "product.hpp"

namespace caloforge {

// A tile is a number of strips of kColumns vectors (the last one may be narrower), each with all its activations in one
// piece of memory: a product then reads its inputs front to back, and the strips together fit into the second cache.
template <class S>
class TileInverse {
public:
    TileInverse(const PackedFlow<S>& flow, int most_vectors) : flow_(flow) {
        const FlowShape& s = flow.shape;
        int units = 0;
        for (const auto& block : flow.blocks)
            for (const auto& g : block.groups) units = std::max(units, g.stop - g.begin);
        int rows = 0;
        auto take = [&rows](int count) {
            const int start = rows;
            rows += count;
            return start;
        };
        values_[0] = take(s.features);
        values_[1] = take(s.features);
        context_ = take(s.context);
        logdet_ = take(1);
        raw_ = take(s.per_feature());
        for (int l = 0; l < s.layers; ++l) hidden_.push_back(take(s.hidden));
        for (int l = 0; l < s.layers; ++l) pre_.push_back(take(units));
        rows_ = rows;
        memory_.allocate(size_t(rows) * most_vectors * kLanes<S>);
    }

    // z, context, x are row-major (count, features) and (count, context); logdet (count).
    void run(int count, const S* z, const S* context, S* x, S* logdet) {
        const FlowShape& s = flow_.shape;
        vectors_ = (count + kLanes<S> - 1) / kLanes<S>;
        over_strips([&](auto strip) {
            const int some = std::min<int>(strip.width, count - strip.first);
            strip.transpose_in(z + strip.first * ptrdiff_t(s.features), some, s.features, values_[0]);
            if (s.context) strip.transpose_in(context + strip.first * ptrdiff_t(s.context), some, s.context, context_);
            std::fill(strip.row(logdet_), strip.row(logdet_ + 1), S(0));
        });
        for (const Block<S>& block : flow_.blocks) {
            invert_block(block);
            std::swap(values_[0], values_[1]);
        }
        over_strips([&](auto strip) {
            const int some = std::min<int>(strip.width, count - strip.first);
            for (int r = 0; r < some; ++r)
                for (int i = 0; i < s.features; ++i)
                    x[(strip.first + r) * ptrdiff_t(s.features) + i] = strip.row(values_[0] + int(flow_.last[i]))[r];
            std::copy(strip.row(logdet_), strip.row(logdet_) + some, logdet + strip.first);
        });
    }

private:
    template <int Columns>
    struct Strip {
        static constexpr int columns = Columns, width = Columns * kLanes<S>;
        S* memory;
        int first;  // shower in its first lane

        S* row(int number) const { return memory + ptrdiff_t(number) * width; }

        // Lanes beyond the last shower repeat it, so that they stay harmless numbers.
        void transpose_in(const S* from, int count, int length, int to) const {
            for (int r = 0; r < width; ++r) {
                const S* source = from + std::min(r, count - 1) * ptrdiff_t(length);
                for (int i = 0; i < length; ++i) row(to + i)[r] = source[i];
            }
        }

        // rows `to` ... = start + weights . rows `from` ...; start is a column of biases or rows of activations.
        void multiply(int rows, const S* w, ptrdiff_t stride, int depth, int from, const S* bias, int to,
                      const S* ahead) const {
            product_all_rows<S, Columns>(rows, w, stride, depth, row(from), width, bias, 0, row(to), width, ahead);
        }
        void multiply_add(int rows, const S* w, ptrdiff_t stride, int depth, int from, int start, int to) const {
            product_all_rows<S, Columns>(rows, w, stride, depth, row(from), width, row(start), width, row(to), width, w);
        }
        template <class Function>
        void apply(int rows, int to, Function function) const {
            for (int r = 0; r < rows; ++r)
                for (int c = 0; c < Columns; ++c) {
                    S* p = row(to + r) + c * kLanes<S>;
                    store(p, function(load(p), r));
                }
        }
    };

    template <class Body>
    void over_strips(Body&& body) const {
        int v = 0;
        for (; v + kColumns <= vectors_; v += kColumns) body(Strip<kColumns>{strip_memory(v), v * kLanes<S>});
        for (; v < vectors_; ++v) body(Strip<1>{strip_memory(v), v * kLanes<S>});
    }
    S* strip_memory(int vector) const { return memory_.data() + ptrdiff_t(vector) * rows_ * kLanes<S>; }

    void invert_block(const Block<S>& block) {
        for (const Group<S>& g : block.groups) {
            if (g.begin < g.stop) begin_group(g);
            if (g.begin < block.ready[g.first]) complete(g, g.begin, int(block.ready[g.first]), g.first);
            for (int i = g.first; i < g.end; ++i) {
                invert_feature(block, g, i);
                if (block.ready[i] < block.ready[i + 1]) complete(g, int(block.ready[i]), int(block.ready[i + 1]), i + 1);
            }
        }
    }

    // What the units of this group receive from everything known before it.
    void begin_group(const Group<S>& g) {
        const FlowShape& s = flow_.shape;
        const int units = g.stop - g.begin;
        const S *entry = g.hidden(0), *entry_bias = g.hidden_bias(0);
        over_strips([&](auto strip) {
            if (s.context) {
                strip.multiply(units, g.context, g.unit_stride, s.context, context_, g.context_bias, pre_[0], g.context);
                strip.apply(units, pre_[0], [&](Vec<S> v, int u) { return at_least(v, Vec<S>{}) + entry_bias[u]; });
                strip.multiply_add(units, entry, g.unit_stride, g.first, values_[1], pre_[0], pre_[0]);
            } else {
                strip.multiply(units, entry, g.unit_stride, g.first, values_[1], entry_bias, pre_[0], entry);
            }
            for (int l = 1; l < s.layers; ++l)
                strip.multiply(units, g.hidden(l), g.unit_stride, g.begin, hidden_[l - 1], g.hidden_bias(l), pre_[l],
                               g.hidden(l));
        });
    }

    // Finish units first .. end of every layer once `known` features are known: add what lies inside the group.
    void complete(const Group<S>& g, int first, int end, int known) {
        const int row = first - g.begin, units = end - first;
        over_strips([&](auto strip) {
            for (int l = 0; l < flow_.shape.layers; ++l) {
                const int skipped = l ? g.begin : g.first, depth = (l ? end : known) - skipped;
                const int from = (l ? hidden_[l - 1] : values_[1]) + skipped, to = hidden_[l] + first;
                const S* w = g.hidden(l) + size_t(skipped) * g.unit_stride + row;
                strip.multiply_add(units, w, g.unit_stride, depth, from, pre_[l] + row, to);
                strip.apply(units, to, [](Vec<S> v, int) { return at_least(v, Vec<S>{}); });
            }
        });
    }

    void invert_feature(const Block<S>& block, const Group<S>& g, int i) {
        const FlowShape& s = flow_.shape;
        const int P = s.per_feature(), k = i - g.first, ready = int(block.ready[i]);
        const S *w = g.raw[k], *bias = w + size_t(ready) * P;
        over_strips([&](auto strip) {
            const S* ahead = strip.first == 0 ? bias + P : w;
            strip.multiply(P, w, P, ready, hidden_[s.layers - 1], bias, raw_, ahead);
            const S* z = strip.row(values_[0] + int(block.source[i]));
            for (int at = 0; at < strip.width; at += kLanes<S>) {
                Vec<S> logdet = load(strip.row(logdet_) + at);
                const S* raw = strip.row(raw_) + at;
                store(strip.row(values_[1] + i) + at,
                      s.reads_latents
                          ? any_spline<S, false>(raw, strip.width, load(z + at), s.spline, logdet)
                          : any_spline<S, true>(raw, strip.width, load(z + at), s.spline, logdet));
                store(strip.row(logdet_) + at, logdet);
            }
        });
    }

    const PackedFlow<S>& flow_;
    Arena<S> memory_;
    int vectors_ = 0, rows_ = 0;
    // Rows of a strip: incoming and outgoing values, context, log-determinant, spline parameters, activations.
    int values_[2], context_, logdet_, raw_;
    std::vector<int> hidden_, pre_;
};

}  // namespace caloforge
