// PointWise Net: the points of one shower after the other, through all layers at once; gates and shifts come once per shower.
#pragma once

#include "dense.hpp"
#include "linear_rational.hpp"
#include "parallel.hpp"

namespace caloforge {

struct PointNetworkShape {
    int features, time, context;
    std::vector<int> outputs;  // of each layer
    int modulations() const {
        int all = 0;
        for (int width : outputs) all += 2 * width;
        return all;
    }
};

// Where everything is in the packed numbers of a network. The plan says: features, time, context, layers, outputs of each layer.
template <class S>
struct PackedPointNetwork {
    PointNetworkShape shape;
    const S* frequencies;
    Dense<S> time;        // for single rows
    Dense<S> modulation;  // for single rows: gates, then shifts, layer by layer
    std::vector<Dense<S>> layers;  // for tiles
    size_t numbers;  // packed ones

    PackedPointNetwork(const int64_t* plan, const S* packed)
        : shape{int(plan[0]), int(plan[1]), int(plan[2]), std::vector<int>(plan + 4, plan + 4 + plan[3])}, frequencies(packed) {
        const S* next = packed + round_up(shape.time / 2, kLanes<S>);
        time = Dense<S>::shaped(shape.time, shape.time, false);
        next = time.place(next);
        modulation = Dense<S>::shaped(shape.time + shape.context, shape.modulations(), false);
        next = modulation.place(next);
        int inputs = shape.features;
        for (int outputs : shape.outputs) {
            layers.push_back(Dense<S>::shaped(inputs, outputs, true));
            next = layers.back().place(next);
            inputs = outputs;
        }
        numbers = size_t(next - packed);
    }
};

// Frequencies (T / 2); then weights, row-major as PyTorch holds them, and biases: time (T, T), modulation (all gates and shifts,
// T + context), layers (outputs, inputs).
template <class S>
void pack_point_network(const PackedPointNetwork<S>& network, const S* const* weights) {
    std::copy(weights[0], weights[0] + network.shape.time / 2, const_cast<S*>(network.frequencies));
    network.time.pack(weights[1], weights[2]);
    network.modulation.pack(weights[3], weights[4]);
    for (size_t k = 0; k < network.layers.size(); ++k) network.layers[k].pack(weights[5 + 2 * k], weights[6 + 2 * k]);
}

template <class S>
inline Vec<S> leaky(Vec<S> v) {
    return v < S(0) ? S(0.01) * v : v;
}

// Gates (after the sigmoid) and shifts of single showers.
template <class S>
class Modulator {
public:
    explicit Modulator(const PackedPointNetwork<S>& network)
        : network_(network), inputs_(network.shape.time + network.shape.context) {
        const int time = network.shape.time;
        memory_.allocate(size_t(time) + network.time.padded() + network.modulation.padded() + kLanes<S>);
        waves_ = memory_.data();
        embedded_ = waves_ + time;
        raw_ = embedded_ + network.time.padded();
    }

    void run(S noise, const S* context, S* out) {
        const PointNetworkShape& s = network_.shape;
        const int half = s.time / 2;
        for (int k = 0; k < half; ++k) {
            const S angle = S(6.283185307179586) * noise * network_.frequencies[k];
            waves_[k] = std::sin(angle);
            waves_[half + k] = std::cos(angle);
        }
        inputs_.clear();
        inputs_.add_all(waves_, s.time);
        dense_single(network_.time, inputs_, embedded_);
        inputs_.clear();
        for (int k = 0; k < s.time; ++k) inputs_.add(k, embedded_[k] < 0 ? S(0.01) * embedded_[k] : embedded_[k]);
        inputs_.add_all(context, s.context, s.time);
        dense_single(network_.modulation, inputs_, raw_);
        int first = 0;
        for (int width : s.outputs) {
            for (int k = 0; k < width; k += kLanes<S>) {
                const Vec<S> gate = sigmoid<S>(load(raw_ + first + k));
                for (int j = k; j < std::min(k + kLanes<S>, width); ++j) out[first + j] = gate[j - k];
            }
            std::copy(raw_ + first + width, raw_ + first + 2 * width, out + first + width);
            first += 2 * width;
        }
    }

private:
    const PackedPointNetwork<S>& network_;
    Arena<S> memory_;
    Inputs<S> inputs_;
    S *waves_, *embedded_, *raw_;
};

// Some points of one shower through all layers.
template <class S>
class PointTile {
public:
    static constexpr int most_strips = 4, most_points = most_strips * Activations<S>::width;

    explicit PointTile(const PackedPointNetwork<S>& network) : network_(network) {
        int units = network.shape.features;
        for (int width : network.shape.outputs) units = std::max(units, width);
        memory_.allocate(2 * size_t(units) * most_points);
        for (int k = 0; k < 2; ++k) {
            side_[k].memory = memory_.data() + k * size_t(units) * most_points;
            side_[k].units = units;
        }
    }

    // Packed points (count, features) in and out; count is at most most_points.
    void run(int count, const S* points, const S* modulation, S* moved) {
        turn_rows_in(points, count, network_.shape.features, strips(count), side_[0]);
        through_layers(strips(count), modulation);
        turn_rows_out(side_[0], count, network_.layers.back().outputs, moved);
    }

    // skip z + out F(scale z) from packed numbers z (count, features), for a network F with as many outputs; feature k of the
    // points goes to made + k * step, one point behind the other.
    void generate(int count, const S* z, const S* modulation, S scale, double skip, double out, double* made, ptrdiff_t step) {
        const int features = network_.shape.features;
        constexpr int width = Activations<S>::width;
        turn_rows_in(z, count, features, strips(count), side_[0]);
        start_.resize(size_t(features) * most_points);
        for (int s = 0; s < strips(count); ++s)
            for (int k = 0; k < features; ++k) {
                S *at = side_[0].unit(s, k), *kept = start_.data() + k * most_points + s * width;
                for (int r = 0; r < width; ++r) {
                    kept[r] = at[r];
                    at[r] *= scale;
                }
            }
        through_layers(strips(count), modulation);
        for (int s = 0; s < strips(count); ++s)
            for (int k = 0; k < features; ++k) {
                const S *at = side_[0].unit(s, k), *kept = start_.data() + k * most_points + s * width;
                double* to = made + k * step + s * width;
                const int rows = std::min(width, count - s * width);
                for (int r = 0; r < rows; ++r) to[r] = skip * double(kept[r]) + out * double(at[r]);
            }
    }

private:
    static int strips(int count) { return (count + Activations<S>::width - 1) / Activations<S>::width; }

    void through_layers(int strips, const S* modulation) {
        const S* gate = modulation;
        for (size_t k = 0; k < network_.layers.size(); ++k) {
            const Dense<S>& layer = network_.layers[k];
            const S* shift = gate + layer.outputs;
            if (k + 1 < network_.layers.size())
                dense_tile(layer, strips, side_[0], side_[1],
                           [=](int r, Vec<S> v) { return leaky<S>(fused(v, splat(gate[r]), splat(shift[r]))); });
            else
                dense_tile(layer, strips, side_[0], side_[1],
                           [=](int r, Vec<S> v) { return fused(v, splat(gate[r]), splat(shift[r])); });
            gate = shift + layer.outputs;
            std::swap(side_[0], side_[1]);
        }
    }

    const PackedPointNetwork<S>& network_;
    Arena<S> memory_;
    Activations<S> side_[2];
    std::vector<S> start_;
};

// Some points of one shower.
struct Piece {
    int64_t shower, first;
    int count;
};

// work(tile, piece, modulation of its shower) for all points, some of a shower at a time; noise levels are `noise_step` apart.
template <class S, class Work>
void over_points(const PackedPointNetwork<S>& network, int64_t showers, const int64_t* offsets, const S* noise, int noise_step,
                 const S* context, int threads, Work work) {
    const size_t modulations = network.shape.modulations();
    std::vector<Piece> pieces;
    for (int64_t shower = 0; shower < showers; ++shower)
        for (int64_t first = offsets[shower]; first < offsets[shower + 1]; first += PointTile<S>::most_points)
            pieces.push_back({shower, first, int(std::min<int64_t>(PointTile<S>::most_points, offsets[shower + 1] - first))});
    std::vector<S> modulation(modulations * showers);
    parallel(showers, 8, threads, [&](int64_t first, int64_t end) {
        Modulator<S> modulator(network);
        for (; first < end; ++first)
            if (offsets[first] < offsets[first + 1])
                modulator.run(noise[first * noise_step], context + first * network.shape.context,
                              modulation.data() + first * modulations);
    });
    parallel(int64_t(pieces.size()), 4, threads, [&](int64_t first, int64_t end) {
        PointTile<S> tile(network);
        for (; first < end; ++first) work(tile, pieces[first], modulation.data() + pieces[first].shower * modulations);
    });
}

}  // namespace caloforge
