// A stack of MADE blocks, packed for inversion: features in groups, weights as panels that are read front to back.
#pragma once

#include <algorithm>
#include <vector>

#include "arena.hpp"
#include "spline.hpp"

namespace caloforge {

constexpr int kGroup = 16;  // features per group

// tile_forward: as tile, for blocks whose conditioner reads what comes out of the spline instead of what goes in.
enum class Layout : int { tile = 0, single = 1, tile_forward = 2 };

struct FlowShape {
    int features, context, hidden, layers, blocks;  // layers: masked layers into hidden units (input layer included)
    SplineShape spline;
    int per_feature() const { return 3 * spline.bins - 1; }
};

// What belongs to the features first .. end and to the hidden units begin .. stop that become complete with them.
template <class S>
struct Group {
    int first, end;          // features
    int begin, stop;         // units, in every hidden layer
    int unit_stride;         // units, rounded up to whole vectors
    const S* context;        // [context][unit_stride]
    const S* context_bias;   // [unit_stride]
    std::vector<const S*> hidden;       // layer 0: [end][unit_stride] over features; others: [stop][unit_stride] over units
    std::vector<const S*> hidden_bias;  // [unit_stride] each
    // Output weights. For tiles, a panel per feature i: [ready[i]][per_feature]. For single showers, one panel for the
    // group: [ready[end - 1]][raw_stride], so that the rows of silent units can be skipped.
    std::vector<const S*> raw, raw_bias;
    int raw_stride, raw_inputs;  // single layout only
};

template <class S>
struct Block {
    std::vector<int> ready;    // ready[i]: units that need only the first i features; features + 1 numbers
    std::vector<int> source;   // row of the incoming values that is feature i of this block
    std::vector<Group<S>> groups;
    Arena<S> arena;
};

template <class S>
struct PackedFlow {
    FlowShape shape;
    Layout layout;
    std::vector<Block<S>> blocks;  // in the order of inversion

    PackedFlow(const FlowShape& s, Layout l) : shape(s), layout(l), blocks(s.blocks) {}

    // Row-major weights as PyTorch holds them: (units, inputs).
    void pack(int position, const int64_t* ready, const int64_t* source, const S* const* weights, const S* const* biases,
              const S* context_weight, const S* context_bias, const S* out_weight, const S* out_bias) {
        Block<S>& block = blocks[position];
        const int D = shape.features, H = shape.hidden, P = shape.per_feature(), C = shape.context;
        block.ready.assign(ready, ready + D + 1);
        block.source.assign(source, source + D);
        block.groups.clear();
        size_t total = 0;
        for (int first = 0; first < D; first += kGroup) {
            Group<S> g{};
            g.first = first;
            g.end = std::min(first + kGroup, D);
            g.begin = first ? block.ready[first] : 0;
            g.stop = block.ready[g.end];
            g.unit_stride = round_up(g.stop - g.begin, kLanes<S>);
            total += size_t(g.unit_stride) * (C + 1 + g.end + size_t(shape.layers - 1) * g.stop + shape.layers);
            g.raw_stride = round_up((g.end - g.first) * P, kLanes<S>);
            g.raw_inputs = block.ready[g.end - 1];
            if (layout == Layout::single)
                total += size_t(g.raw_stride) * (g.raw_inputs + 1);
            else
                for (int i = g.first; i < g.end; ++i) total += size_t(P) * (block.ready[i] + 1);
            block.groups.push_back(g);
        }
        block.arena.allocate(total);
        S* next = block.arena.data();
        for (Group<S>& g : block.groups) {
            const int units = g.stop - g.begin;
            auto panel = [&next](const S* from, size_t row_length, int rows, int stride, int inputs) {
                S* to = next;
                for (int r = 0; r < rows; ++r)
                    for (int j = 0; j < inputs; ++j) to[size_t(j) * stride + r] = from[r * row_length + j];
                next += size_t(inputs) * stride;
                return static_cast<const S*>(to);
            };
            g.context = C ? panel(context_weight + size_t(g.begin) * C, C, units, g.unit_stride, C) : next;
            g.context_bias = C ? panel(context_bias + g.begin, 1, units, g.unit_stride, 1) : next;
            for (int l = 0; l < shape.layers; ++l) {
                const size_t length = l ? H : D;
                const S* from = weights[l] + size_t(g.begin) * length;
                g.hidden.push_back(panel(from, length, units, g.unit_stride, l ? g.stop : g.end));
                g.hidden_bias.push_back(panel(biases[l] + g.begin, 1, units, g.unit_stride, 1));
            }
            if (layout == Layout::single) {
                const int raws = (g.end - g.first) * P;
                g.raw.push_back(panel(out_weight + size_t(g.first) * P * H, H, raws, g.raw_stride, g.raw_inputs));
                g.raw_bias.push_back(panel(out_bias + size_t(g.first) * P, 1, raws, g.raw_stride, 1));
                continue;
            }
            for (int i = g.first; i < g.end; ++i) {
                g.raw.push_back(panel(out_weight + size_t(i) * P * H, H, P, P, block.ready[i]));
                g.raw_bias.push_back(panel(out_bias + size_t(i) * P, 1, P, P, 1));
            }
        }
    }
};

}  // namespace caloforge
