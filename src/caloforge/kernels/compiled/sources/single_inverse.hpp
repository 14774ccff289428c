// Inversion of one shower at a time: the lanes are hidden units and spline parameters.
//
// Reading the weights from memory takes nearly all the time, so the weights of hidden units that the ReLU has silenced
// are not read at all, and those of the next group are asked for while the current one is worked on.
#pragma once

#include "arena.hpp"
#include "packed_flow.hpp"
#include "single_spline.hpp"

namespace caloforge {

// The units of one layer that are not zero, in the order in which they became known.
template <class S>
struct ActiveUnits {
    std::vector<int> unit;
    std::vector<S> value;
    void clear() {
        unit.clear();
        value.clear();
    }
};

// y[0 .. length) += sum over the given rows of value * w[row * stride ...]; length is a multiple of the lanes.
template <class S>
inline void add_rows(const S* w, ptrdiff_t stride, const int* row, const S* value, int rows, int length, S* y) {
    constexpr int L = kLanes<S>, line = 64 / int(sizeof(S)), ahead = 8;
    int t = 0;
    for (; t + 4 <= rows; t += 4) {
        const S *w0 = w + row[t] * stride, *w1 = w + row[t + 1] * stride;
        const S *w2 = w + row[t + 2] * stride, *w3 = w + row[t + 3] * stride;
        const Vec<S> v0 = splat(value[t]), v1 = splat(value[t + 1]), v2 = splat(value[t + 2]), v3 = splat(value[t + 3]);
        for (int k = t + ahead; k < std::min(t + ahead + 4, rows); ++k)
            for (int v = 0; v < length; v += line) __builtin_prefetch(w + row[k] * stride + v);
        for (int v = 0; v < length; v += L)
            store(y + v, fused(v0, load(w0 + v), fused(v1, load(w1 + v), load(y + v))) +
                             fused(v2, load(w2 + v), v3 * load(w3 + v)));
    }
    for (; t < rows; ++t)
        for (int v = 0; v < length; v += L) store(y + v, fused(splat(value[t]), load(w + row[t] * stride + v), load(y + v)));
}

template <class S>
class SingleInverse {
public:
    explicit SingleInverse(const PackedFlow<S>& flow) : flow_(flow), active_(flow.shape.layers), pre_(flow.shape.layers) {
        const FlowShape& s = flow.shape;
        int units = 0, raws = 0;
        for (const auto& block : flow.blocks)
            for (const auto& g : block.groups) units = std::max(units, g.unit_stride), raws = std::max(raws, g.raw_stride);
        memory_.allocate(2 * size_t(s.features) + raws + kLanes<S> + size_t(s.layers) * units);
        from_ = memory_.data();
        to_ = from_ + s.features;
        raw_ = to_ + s.features;
        for (int l = 0; l < s.layers; ++l) pre_[l] = raw_ + raws + kLanes<S> + l * units;
        for (auto& active : active_) active.unit.reserve(s.hidden), active.value.reserve(s.hidden);
        every_.resize(std::max(s.features, s.context));
        for (size_t k = 0; k < every_.size(); ++k) every_[k] = int(k);
    }

    // z and x hold the features of one shower; returns log |det dx/dz|.
    S run(const S* z, const S* context, S* x) {
        const int D = flow_.shape.features;
        std::copy(z, z + D, from_);
        S logdet = 0;
        for (const Block<S>& block : flow_.blocks) {
            invert_block(block, context, logdet);
            std::swap(from_, to_);
        }
        for (int i = 0; i < D; ++i) x[i] = from_[flow_.last[i]];
        return logdet;
    }

private:
    void invert_block(const Block<S>& block, const S* context, S& logdet) {
        const FlowShape& s = flow_.shape;
        const int P = s.per_feature();
        for (auto& active : active_) active.clear();
        for (size_t k = 0; k < block.groups.size(); ++k) {
            const Group<S>& g = block.groups[k];
            const Group<S>* following = k + 1 < block.groups.size() ? &block.groups[k + 1] : nullptr;
            begin_group(g, context);
            if (g.begin < block.ready[g.first]) complete(g, g.begin, int(block.ready[g.first]), 0);
            for (int i = g.first; i < g.end; ++i) {
                const S value = single_spline_inverse(raw_ + (i - g.first) * P, from_[block.source[i]], s.spline, logdet);
                to_[i] = value;
                if (i + 1 < s.features && g.begin < g.stop) {
                    add_rows(g.hidden(0) + size_t(i) * g.unit_stride, 0, every_.data(), &value, 1, g.unit_stride, pre_[0]);
                    complete(g, int(block.ready[i]), int(block.ready[i + 1]), (i + 1 - g.first) * P / kLanes<S> * kLanes<S>);
                }
                if (following) ask_for(*following, i - g.first, g.end - g.first);
            }
        }
    }

    // Parameters and pre-activations of the group from all that is known before it.
    void begin_group(const Group<S>& g, const S* context) {
        const FlowShape& s = flow_.shape;
        const int units = g.unit_stride;
        const S* entry_bias = g.hidden_bias(0);
        if (s.context) {
            std::copy(g.context_bias, g.context_bias + units, pre_[0]);
            add_rows(g.context, units, every_.data(), context, s.context, units, pre_[0]);
            for (int u = 0; u < units; ++u) pre_[0][u] = (pre_[0][u] < 0 ? S(0) : pre_[0][u]) + entry_bias[u];
        } else {
            std::copy(entry_bias, entry_bias + units, pre_[0]);
        }
        add_rows(g.hidden(0), units, every_.data(), to_, g.first, units, pre_[0]);
        for (int l = 1; l < s.layers; ++l) {
            std::copy(g.hidden_bias(l), g.hidden_bias(l) + units, pre_[l]);
            add_active(g.hidden(l), units, active_[l - 1], units, pre_[l]);
        }
        const S* raw_bias = g.raw[0] + size_t(g.raw_inputs) * g.raw_stride;
        std::copy(raw_bias, raw_bias + g.raw_stride, raw_);
        add_active(g.raw[0], g.raw_stride, active_.back(), g.raw_stride, raw_);
    }

    void add_active(const S* w, ptrdiff_t stride, const ActiveUnits<S>& active, int length, S* y) {
        add_rows(w, stride, active.unit.data(), active.value.data(), int(active.unit.size()), length, y);
    }

    // Units first .. end are complete in every layer: pass on what they give to the rest of the group.
    void complete(const Group<S>& g, int first, int end, int raw_from) {
        const int layers = flow_.shape.layers;
        for (int l = 0; l < layers; ++l)
            for (int u = first; u < end; ++u) {
                const S value = pre_[l][u - g.begin];
                if (value <= 0) continue;
                active_[l].unit.push_back(u);
                active_[l].value.push_back(value);
                if (l + 1 < layers)
                    add_rows(g.hidden(l + 1) + size_t(u) * g.unit_stride, 0, every_.data(), &value, 1, g.unit_stride, pre_[l + 1]);
                else if (u < g.raw_inputs)
                    add_rows(g.raw[0] + size_t(u) * g.raw_stride + raw_from, 0, every_.data(), &value, 1,
                             g.raw_stride - raw_from, raw_ + raw_from);
            }
    }

    // Ask for one part of the output weights of the next group that will be needed for certain.
    void ask_for(const Group<S>& g, int part, int parts) const {
        constexpr int line = 64 / int(sizeof(S));
        const auto& unit = active_.back().unit;
        const size_t n = unit.size();
        for (size_t t = n * part / parts; t < n * (part + 1) / parts; ++t)
            for (int v = 0; v < g.raw_stride; v += line) __builtin_prefetch(g.raw[0] + size_t(unit[t]) * g.raw_stride + v, 0, 2);
    }

    const PackedFlow<S>& flow_;
    Arena<S> memory_;
    S *from_ = nullptr, *to_ = nullptr, *raw_ = nullptr;
    std::vector<ActiveUnits<S>> active_;
    std::vector<S*> pre_;
    std::vector<int> every_;
};

}  // namespace caloforge
