// A stack of MADE blocks, packed for inversion: features in groups, weights as panels that are read front to back.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "spline.hpp"

namespace caloforge {

constexpr int kGroup = 16;  // features per group

enum class Layout : int { tile = 0, single = 1 };

struct FlowShape {
    int features, context, hidden, layers, blocks;  // layers: masked layers into hidden units (input layer included)
    bool reads_latents;                             // conditioners read what comes out of the spline instead of what goes in
    SplineShape spline;
    int per_feature() const { return 3 * spline.bins - 1; }
};

// What belongs to the features first .. end and to the hidden units begin .. stop that become complete with them.
template <class S>
struct Group {
    int first, end;               // features
    int begin, stop;              // units, in every hidden layer
    int unit_stride;              // units, rounded up to whole vectors
    int raw_stride, raw_inputs;   // single layout only
    const S *context, *context_bias;  // [context][unit_stride] and [unit_stride]
    const S* layers;
    // Output weights, each panel with its biases behind it. For tiles, a panel per feature i: [ready[i]][per_feature]. For single
    // showers, one panel for the group: [ready[end - 1]][raw_stride], so that the rows of silent units can be skipped.
    const S* raw[kGroup];

    // Layer 0: [end][unit_stride] over features; others: [stop][unit_stride] over units; then a row of biases.
    int inputs(int layer) const { return layer ? stop : end; }
    const S* hidden(int layer) const {
        return layers + size_t(layer ? end + 1 + size_t(layer - 1) * (stop + 1) : 0) * unit_stride;
    }
    const S* hidden_bias(int layer) const { return hidden(layer) + size_t(inputs(layer)) * unit_stride; }
};

template <class S>
struct Block {
    const int64_t* ready;   // ready[i]: units that need only the first i features; features + 1 numbers
    const int64_t* source;  // row of the incoming values that is feature i of this block
    std::vector<Group<S>> groups;
};

// Where everything is in the packed numbers of a flow. The plan says: features, context, hidden, layers, blocks, bins,
// reads_latents; ready and source of each block in the order of inversion; the outgoing value that is output i.
template <class S>
struct PackedFlow {
    FlowShape shape;
    Layout layout;
    std::vector<Block<S>> blocks;
    const int64_t* last;
    size_t numbers;  // packed ones

    PackedFlow(const int64_t* plan, const SplineShape& spline, Layout l, const S* packed)
        : shape{int(plan[0]), int(plan[1]), int(plan[2]), int(plan[3]), int(plan[4]), plan[6] != 0, spline}, layout(l) {
        shape.spline.bins = int(plan[5]);
        const int D = shape.features, P = shape.per_feature(), C = shape.context;
        const int64_t* rest = plan + 7;
        const S* next = packed;
        auto take = [&next](size_t count) {
            const S* from = next;
            next += count;
            return from;
        };
        blocks.resize(shape.blocks);
        for (Block<S>& block : blocks) {
            block.ready = rest;
            block.source = rest + D + 1;
            rest += 2 * D + 1;
            block.groups.reserve((D + kGroup - 1) / kGroup);
            for (int first = 0; first < D; first += kGroup) {
                Group<S> g;
                g.first = first;
                g.end = std::min(first + kGroup, D);
                g.begin = first ? int(block.ready[first]) : 0;
                g.stop = int(block.ready[g.end]);
                g.unit_stride = round_up(g.stop - g.begin, kLanes<S>);
                g.raw_stride = round_up((g.end - g.first) * P, kLanes<S>);
                g.raw_inputs = int(block.ready[g.end - 1]);
                g.context = take(size_t(g.unit_stride) * C);
                g.context_bias = take(C ? g.unit_stride : 0);
                g.layers = take(0);
                for (int k = 0; k < shape.layers; ++k) take(size_t(g.unit_stride) * (g.inputs(k) + 1));
                if (layout == Layout::single)
                    g.raw[0] = take(size_t(g.raw_stride) * (g.raw_inputs + 1));
                else
                    for (int i = g.first; i < g.end; ++i) g.raw[i - g.first] = take(size_t(P) * (block.ready[i] + 1));
                block.groups.push_back(g);
            }
        }
        last = rest;
        numbers = size_t(next - packed);
    }
};

// Row-major weights as PyTorch holds them, (units, inputs), of each block in the order of inversion: weights and biases of the
// layers into hidden units, of the context if there is one, of the output layer.
template <class S>
void pack_flow(const PackedFlow<S>& flow, const S* const* weights, S* packed) {
    const FlowShape& shape = flow.shape;
    const int D = shape.features, H = shape.hidden, P = shape.per_feature(), C = shape.context;
    std::memset(packed, 0, flow.numbers * sizeof(S));
    // Panel [inputs][stride] of `rows` rows, each `length` numbers long, and biases.
    auto panel = [](const S* to, const S* from, size_t length, const S* bias, int rows, int stride, int inputs) {
        S* numbers = const_cast<S*>(to);
        for (int r = 0; r < rows; ++r) {
            for (int j = 0; j < inputs; ++j) numbers[size_t(j) * stride + r] = from[r * length + j];
            numbers[size_t(inputs) * stride + r] = bias[r];
        }
    };
    for (const Block<S>& block : flow.blocks) {
        const S* const* context = weights + 2 * shape.layers;
        const S* const* out = context + (C ? 2 : 0);
        for (const Group<S>& g : block.groups) {
            const int units = g.stop - g.begin;
            if (C) panel(g.context, context[0] + size_t(g.begin) * C, C, context[1] + g.begin, units, g.unit_stride, C);
            for (int l = 0; l < shape.layers; ++l) {
                const size_t length = l ? H : D;
                panel(g.hidden(l), weights[2 * l] + size_t(g.begin) * length, length, weights[2 * l + 1] + g.begin, units,
                      g.unit_stride, g.inputs(l));
            }
            const int raws = flow.layout == Layout::single ? (g.end - g.first) * P : P;
            for (int i = g.first; i < g.end; i += raws / P)
                panel(g.raw[i - g.first], out[0] + size_t(i) * P * H, H, out[1] + size_t(i) * P, raws,
                      flow.layout == Layout::single ? g.raw_stride : P,
                      flow.layout == Layout::single ? g.raw_inputs : int(block.ready[i]));
        }
        weights = out + 2;
    }
}

}  // namespace caloforge
