// ShowerFlow in the direction of sampling: affine couplings, and splines whose parameters depend on the condition alone.
#pragma once

#include "dense.hpp"
#include "linear_rational.hpp"

namespace caloforge {

struct ShowerFlowShape {
    int features, context;
    LinearRationalShape spline;
    int kept() const { return features / 2; }
    int moved() const { return features - kept(); }
};

// One step: the values reordered, then transformed by what a network with two hidden layers says.
template <class S>
struct FlowStep {
    bool spline;
    const int64_t* source;  // incoming value that is feature i
    Dense<S> network[3];
};

// Where everything is in the packed numbers of a flow. The plan says: features, context, steps, bins; of each step whether it is a
// spline, the width of its network, and the incoming value that is feature i; the outgoing value that is output i.
template <class S>
struct PackedShowerFlow {
    ShowerFlowShape shape;
    bool tile;
    int spline_stride;  // between the rows of a spline's parameters: features, rounded up to whole vectors for single rows
    std::vector<FlowStep<S>> steps;
    const int64_t* last;
    size_t numbers;  // packed ones

    PackedShowerFlow(const int64_t* plan, const LinearRationalShape& spline, bool single, const S* packed)
        : shape{int(plan[0]), int(plan[1]), spline},
          tile(!single),
          spline_stride(single ? round_up(int(plan[0]), kLanes<S>) : int(plan[0])),
          steps(plan[2]) {
        shape.spline.bins = int(plan[3]);
        const int64_t* rest = plan + 4;
        const S* next = packed;
        for (FlowStep<S>& step : steps) {
            step.spline = rest[0] != 0;
            const int hidden = int(rest[1]);
            step.source = rest + 2;
            rest += 2 + shape.features;
            const int inputs = shape.context + (step.spline ? 0 : shape.kept());
            const int outputs = step.spline ? shape.spline.parameters() * spline_stride : 2 * shape.moved();
            const int sizes[] = {inputs, hidden, hidden, outputs};
            for (int k = 0; k < 3; ++k) {
                step.network[k] = Dense<S>::shaped(sizes[k], sizes[k + 1], tile);
                next = step.network[k].place(next);
            }
        }
        last = rest;
        numbers = size_t(next - packed);
    }

    int widest() const {
        int most = 0;
        for (const auto& step : steps)
            for (const auto& dense : step.network) most = std::max(most, dense.padded());
        return most;
    }
};

// Weights and biases of the three layers of each step, row-major as PyTorch holds them.
template <class S>
void pack_shower_flow(const PackedShowerFlow<S>& flow, const S* const* weights) {
    const int parameters = flow.shape.spline.parameters(), stride = flow.spline_stride;
    for (const FlowStep<S>& step : flow.steps) {
        for (int k = 0; k < 2; ++k) step.network[k].pack(weights[2 * k], weights[2 * k + 1]);
        // PyTorch has all parameters of a feature together; here all features of a parameter are.
        step.network[2].pack(weights[4], weights[5], [&](int o) {
            if (!step.spline) return o;
            const int parameter = o / stride, feature = o % stride;
            return feature < flow.shape.features ? feature * parameters + parameter : -1;
        });
        weights += 6;
    }
}

// The second half of a coupling: exp(tanh(raw)) x + shift.
template <class S>
inline Vec<S> stretched(Vec<S> x, Vec<S> shift, Vec<S> raw) {
    const Vec<S> e = exp_negative<S>(raw > S(0) ? S(-2) * raw : S(2) * raw), size = (S(1) - e) / (S(1) + e);
    return x * exp_negative<S>(raw > S(0) ? size : -size) + shift;
}

// One shower at a time: lanes are units and features.
template <class S>
class SingleShowerFlow {
public:
    explicit SingleShowerFlow(const PackedShowerFlow<S>& flow) : flow_(flow), inputs_(flow.widest() + flow.shape.features + flow.shape.context) {
        const int features = round_up(flow.shape.features, kLanes<S>) + kLanes<S>;
        memory_.allocate(2 * size_t(features) + flow.widest() + 2 * kLanes<S>);
        from_ = memory_.data();
        to_ = from_ + features;
        units_ = to_ + features;
    }

    void run(const S* z, const S* context, S* x) {
        const ShowerFlowShape& s = flow_.shape;
        constexpr int L = kLanes<S>;
        std::copy(z, z + s.features, from_);
        for (const FlowStep<S>& step : flow_.steps) {
            for (int i = 0; i < s.features; ++i) to_[i] = from_[step.source[i]];
            inputs_.clear();
            if (!step.spline) inputs_.add_all(to_, s.kept());
            inputs_.add_all(context, s.context, step.spline ? 0 : s.kept());
            for (int k = 0; k < 3; ++k) {
                dense_single(step.network[k], inputs_, units_);
                inputs_.clear();
                if (k < 2) inputs_.add_positive(units_, step.network[k].outputs);
            }
            if (step.spline) {
                for (int i = 0; i < s.features; i += L)
                    store(to_ + i, linear_rational<S>(units_ + i, flow_.spline_stride, load(to_ + i), s.spline));
            } else {
                S* moved = to_ + s.kept();
                for (int i = 0; i < s.moved(); i += L)
                    store(moved + i, stretched<S>(load(moved + i), load(units_ + i), load(units_ + s.moved() + i)));
            }
            std::swap(from_, to_);
        }
        for (int i = 0; i < s.features; ++i) x[i] = from_[flow_.last[i]];
    }

private:
    const PackedShowerFlow<S>& flow_;
    Arena<S> memory_;
    Inputs<S> inputs_;
    S *from_, *to_, *units_;
};

// Many showers: lanes are showers.
template <class S>
class TileShowerFlow {
public:
    static constexpr int most_strips = 4, most_rows = most_strips * Activations<S>::width;

    explicit TileShowerFlow(const PackedShowerFlow<S>& flow) : flow_(flow) {
        const ShowerFlowShape& s = flow.shape;
        const int units = flow.widest();
        const int sizes[] = {s.features, s.features, s.kept() + s.context, units, units};
        size_t total = 0;
        for (int size : sizes) total += size_t(size) * most_rows;
        memory_.allocate(total);
        S* next = memory_.data();
        for (int k = 0; k < 5; ++k) {
            parts_[k].memory = next;
            parts_[k].units = sizes[k];
            next += size_t(sizes[k]) * most_rows;
        }
    }

    // Row-major: z and x (count, features), context (count, context); count is at most most_rows.
    void run(int count, const S* z, const S* context, S* x) {
        const ShowerFlowShape& s = flow_.shape;
        constexpr int L = kLanes<S>, width = Activations<S>::width;
        const int strips = (count + width - 1) / width;
        Activations<S>&from = parts_[0], &to = parts_[1], &inputs = parts_[2];
        turn_rows_in(z, count, s.features, strips, from);
        for (const FlowStep<S>& step : flow_.steps) {
            const int kept = step.spline ? 0 : s.kept();
            if (s.context) turn_rows_in(context, count, s.context, strips, inputs, kept);
            for (int t = 0; t < strips; ++t) {
                for (int i = 0; i < s.features; ++i) copy(from.unit(t, int(step.source[i])), to.unit(t, i));
                for (int i = 0; i < kept; ++i) copy(to.unit(t, i), inputs.unit(t, i));
            }
            const auto relu = [](int, Vec<S> v) { return at_least(v, Vec<S>{}); };
            dense_tile(step.network[0], strips, inputs, parts_[3], relu);
            dense_tile(step.network[1], strips, parts_[3], parts_[4], relu);
            dense_tile(step.network[2], strips, parts_[4], parts_[3], [](int, Vec<S> v) { return v; });
            for (int t = 0; t < strips; ++t)
                for (int c = 0; c < width; c += L) {
                    const S* raw = parts_[3].unit(t, 0) + c;
                    if (step.spline)
                        for (int i = 0; i < s.features; ++i) {
                            S* at = to.unit(t, i) + c;
                            store(at, linear_rational<S>(raw + i * width, ptrdiff_t(flow_.spline_stride) * width, load(at), s.spline));
                        }
                    else
                        for (int i = 0; i < s.moved(); ++i) {
                            S* at = to.unit(t, s.kept() + i) + c;
                            store(at, stretched<S>(load(at), load(raw + i * width), load(raw + (s.moved() + i) * width)));
                        }
                }
            std::swap(from, to);
        }
        for (int t = 0; t < strips; ++t)
            for (int i = 0; i < s.features; ++i) copy(from.unit(t, int(flow_.last[i])), to.unit(t, i));
        turn_rows_out(to, count, s.features, x);
    }

private:
    static void copy(const S* from, S* to) { std::copy(from, from + Activations<S>::width, to); }

    const PackedShowerFlow<S>& flow_;
    Arena<S> memory_;
    Activations<S> parts_[5];  // incoming and outgoing values, inputs of a network, units of its layers
};

}  // namespace caloforge
