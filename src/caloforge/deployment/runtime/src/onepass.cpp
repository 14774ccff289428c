// Flows that need one pass through each of their networks; one shower at a time, since hosts ask for few.
#include <algorithm>
#include <cmath>

#include "flows.hpp"
#include "cubic.hpp"
#include "spline_gradients.hpp"

namespace caloforge::runtime {

namespace {

constexpr float kSlope = 0.01f;  // of the leaky ReLUs of coupling networks
constexpr int kLanesOf = kLanes<float>;

}  // namespace

// Work memory of one thread.
struct OnePassSampler::Room {
    std::vector<float> values, hidden, extra, raw, moved;
    Inputs<float> inputs, others;
    explicit Room(const Sizes& s, int widest, int raw_numbers)
        : values(size_t(s.features)), hidden(size_t(widest)), extra(size_t(widest)), raw(size_t(raw_numbers)),
          moved(size_t(round_up(s.moved(), kLanesOf))), inputs(std::max(s.features + s.context, widest)), others(std::max(1, s.context)) {}
};

OnePassSampler::OnePassSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline) {
    const std::vector<int64_t> plan = tensors.wholes(name + ".plan");
    need_sizes(plan, 10);
    Sizes& s = shape_;
    const auto at = [&](int k) { return int(plan[size_t(k)]); };
    s = {at(0), at(1), at(2), at(3), at(4) != 0, at(5) != 0, at(6) != 0, at(7), at(8), at(9)};
    need(s.features >= 1 && s.steps >= 1 && s.steps <= 10000 && s.bins >= 2 && s.bins <= kMaxBins && s.layers >= 1 && s.layers <= 1000 &&
             s.hidden >= 1 && s.seen >= 1 && s.seen <= s.features && (s.autoregressive ? s.seen == s.features : s.seen < s.features) &&
             (!s.autoregressive || s.layers >= 2),
         "the plan of '" + name + "' is out of range");
    need(int64_t(plan.size()) == 10 + int64_t(s.steps) * s.features, "the plan of '" + name + "' has another length");
    spline_ = {s.bins, spline[0], spline[1], spline[2], spline[3]};

    const int P = parameters(), groups = (s.moved() + kLanesOf - 1) / kLanesOf;
    need(int64_t(groups) * P * kLanesOf <= kLargest, "the plan of '" + name + "' is out of range");
    const auto shapes = [&](std::vector<Dense<float>>& layers, Dense<float>& context) {
        int inputs = s.seen + (s.autoregressive ? 0 : s.context);
        for (int l = 0; l < s.layers; ++l) {
            const int outputs = l + 1 < s.layers ? s.hidden : groups * P * kLanesOf;
            layers.push_back(Dense<float>::shaped(inputs, outputs, false));
            inputs = s.hidden;
        }
        if (s.autoregressive && s.context) context = Dense<float>::shaped(s.context, s.hidden, false);
    };
    size_t numbers = 0;
    steps_.resize(size_t(s.steps));
    for (int k = 0; k < s.steps; ++k) {
        Step& step = steps_[size_t(k)];
        const int64_t* source = plan.data() + 10 + size_t(k) * size_t(s.features);
        need_places(source, s.features, s.features);
        step.source.assign(source, source + s.features);
        shapes(step.layers, step.context);
        for (const auto& layer : step.layers) numbers += layer.numbers();
        if (step.context.outputs) numbers += step.context.numbers();
    }
    numbers_ = Packed(numbers);
    const float* memory = numbers_.data();
    for (int k = 0; k < s.steps; ++k) {
        Step& step = steps_[size_t(k)];
        // Those of one step at a time: all at once would need room for a second copy.
        Weights weights(tensors, name + ".step." + std::to_string(k));
        for (int l = 0; l < s.layers; ++l) {
            Dense<float>& layer = step.layers[size_t(l)];
            memory = layer.place(memory);
            const bool last = l + 1 == s.layers;
            const int64_t outputs = last ? int64_t(s.moved()) * P : s.hidden;
            const float *w = weights.take(outputs * layer.inputs), *b = weights.take(outputs);
            // Parameters of a vector of splines stand one behind the other.
            if (last)
                layer.pack(w, b, [&](int o) {
                    const int group = o / (P * kLanesOf), p = o / kLanesOf % P, feature = group * kLanesOf + o % kLanesOf;
                    return feature < s.moved() ? feature * P + p : -1;
                });
            else
                layer.pack(w, b);
        }
        if (step.context.outputs) {
            memory = step.context.place(memory);
            const float *w = weights.take(int64_t(s.hidden) * s.context), *b = weights.take(s.hidden);
            step.context.pack(w, b);
        }
        const float* scale = weights.take(s.features);
        step.scale.assign(scale, scale + s.features);
        const float* shift = weights.take(s.features);
        step.shift.assign(shift, shift + s.features);
    }
    tensors.forget();
}

void OnePassSampler::splines(const float* raw, float* values, Room& room) const {
    const int moved = shape_.moved(), P = parameters();
    std::fill(room.moved.begin(), room.moved.end(), 0.0f);
    std::copy_n(values, moved, room.moved.data());
    if (shape_.whole_rows)
        for (int k = 0; k < moved; ++k)
            if (!(std::fabs(values[k]) <= float(spline_.bound))) return;
    Vec<float> log{};
    for (int first = 0; first < moved; first += kLanesOf) {
        const float* own = raw + ptrdiff_t(first) * P;
        float* at = room.moved.data() + first;
        const Vec<float> in = load(at);
        store(at, shape_.cubic          ? CubicSplines::evaluate<float, 0, true>(own, kLanesOf, in, spline_, log)
                  : shape_.bins == 10   ? spline<float, 10, true>(own, kLanesOf, in, spline_, log)
                                        : any_spline<float, true>(own, kLanesOf, in, spline_, log));
    }
    std::copy_n(room.moved.data(), moved, values);
}

void OnePassSampler::step(const Step& step, const float* context, float* x, Room& room) const {
    const Sizes& s = shape_;
    float* const values = room.values.data();
    for (int k = 0; k < s.features; ++k) values[k] = x[step.source[size_t(k)]];
    room.inputs.clear();
    room.inputs.add_all(values, s.seen);
    if (!s.autoregressive) room.inputs.add_all(context, s.context, s.seen);
    float* const hidden = room.hidden.data();
    for (int l = 0; l + 1 < s.layers; ++l) {
        dense_single(step.layers[size_t(l)], room.inputs, hidden);
        if (l == 0 && step.context.outputs) {
            room.others.clear();
            room.others.add_all(context, s.context);
            dense_single(step.context, room.others, room.extra.data());
            for (int k = 0; k < s.hidden; ++k) hidden[k] += room.extra[size_t(k)] < 0 ? 0 : room.extra[size_t(k)];
        }
        room.inputs.clear();
        if (s.autoregressive) {
            room.inputs.add_positive(hidden, s.hidden);
        } else {
            for (int k = 0; k < s.hidden; ++k) hidden[k] = hidden[k] < 0 ? kSlope * hidden[k] : hidden[k];
            room.inputs.add_all(hidden, s.hidden);
        }
    }
    dense_single(step.layers.back(), room.inputs, room.raw.data());
    splines(room.raw.data(), values + (s.features - s.moved()), room);
    for (int k = 0; k < s.features; ++k) x[k] = values[k] * step.scale[size_t(k)] + step.shift[size_t(k)];
}

void OnePassSampler::run(int64_t count, const float* z, const float* context, float* x) const {
    int widest = shape_.hidden, raw = 0;
    for (const auto& layer : steps_[0].layers) widest = std::max(widest, &layer == &steps_[0].layers.back() ? 0 : layer.padded());
    if (steps_[0].context.outputs) widest = std::max(widest, steps_[0].context.padded());
    raw = steps_[0].layers.back().padded();
    Room room(shape_, widest, raw);
    const ptrdiff_t D = shape_.features, C = shape_.context;
    for (int64_t r = 0; r < count; ++r) {
        std::copy_n(z + r * D, D, x + r * D);
        for (const Step& one : steps_) step(one, context + r * C, x + r * D, room);
    }
}

}  // namespace caloforge::runtime
