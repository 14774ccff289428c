// The last layer of a spline flow's network together with the splines that it sets, forwards and backwards.
//
// Raw parameters are the product of the layer's weights with the hidden units, some dozens for each feature and row: by far
// the largest numbers of a flow. Here lanes are rows. A feature's parameters stay in the first cache between the product and
// the spline, and their gradients between the spline and the products that need them.
#pragma once

#include <vector>

#include "blocks.hpp"
#include "cubic.hpp"
#include "parallel.hpp"
#include "spline_gradients.hpp"

namespace caloforge {

// Rows are cut into tiles of equal width, whole vectors; hidden units of a tile and their gradients fit into the second cache.
struct RowTiles {
    int64_t rows;
    int count, width;

    template <class S>
    static RowTiles of(int64_t rows) {
        constexpr int64_t L = kLanes<S>, most = 192 / L;
        const int64_t vectors = std::max<int64_t>(1, (rows + L - 1) / L), count = (vectors + most - 1) / most;
        return {rows, int(count), int((vectors + count - 1) / count * L)};
    }
    int64_t first(int tile) const { return int64_t(tile) * width; }
    int filled(int tile) const { return int(std::max<int64_t>(0, std::min<int64_t>(width, rows - first(tile)))); }
};

// Some columns of a row-major matrix become rows of a tile, [column][row]; what lies beyond the last row is zero.
template <class S>
inline void turn_to_tile(const S* from, ptrdiff_t stride, int filled, int width, int columns, S* to) {
    constexpr int B = 16;
    for (int first = 0; first < width; first += B) {
        const int some = std::min(B, width - first), there = std::max(0, std::min(some, filled - first));
        for (int c = 0; c < columns; ++c) {
            S* out = to + size_t(c) * width + first;
            for (int r = 0; r < there; ++r) out[r] = from[(first + r) * stride + c];
            for (int r = there; r < some; ++r) out[r] = S(0);
        }
    }
}
template <class S>
inline void turn_from_tile(const S* from, int filled, int width, int columns, S* to, ptrdiff_t stride) {
    constexpr int B = 16;
    for (int first = 0; first < filled; first += B)
        for (int c = 0; c < columns; ++c)
            for (int r = first; r < std::min(filled, first + B); ++r) to[r * stride + c] = from[size_t(c) * width + r];
}

template <class S>
struct SplineLayer {
    RowTiles tiles;
    int features, hidden;
    const int* reach_of;  // how many hidden units reach each feature; null for all
    SplineShape shape;
    int threads, raw_parameters;  // of one spline

    int parameters() const { return raw_parameters; }
    int reach(int feature) const { return reach_of ? reach_of[feature] : hidden; }
    // Features that are worked on together. It must not depend on the threads: sums over features are made group by group.
    int group() const { return features >= 64 ? 4 : features >= 16 ? 2 : 1; }
    int groups() const { return (features + group() - 1) / group(); }
    // Where the raw parameters of a feature stand: [tile][feature][parameter][row].
    size_t place(int tile, int feature) const { return (size_t(tile) * features + feature) * parameters() * tiles.width; }

    // Groups at which each thread's share of equal work begins, and the end.
    std::vector<int> shares() const {
        const double spline = 40;  // of a row and parameter, in multiply-adds of the product
        double total = 0, done = 0;
        for (int f = 0; f < features; ++f) total += reach(f) + spline;
        const double work = total * parameters() * double(tiles.rows);
        const int parts = work < 2e5 ? 1 : threads;
        std::vector<int> starts{0};
        for (int g = 0; g < groups(); ++g) {
            if (g && done >= total * double(starts.size()) / parts) starts.push_back(g);
            for (int f = g * group(); f < std::min(features, (g + 1) * group()); ++f) done += reach(f) + spline;
        }
        starts.push_back(groups());
        return starts;
    }
};

// `raw` keeps the raw parameters if it is not null; what lies beyond the last row is zero there.
template <class Splines, class S, int Bins, bool Inverse>
void spline_layer_forward(const SplineLayer<S>& layer, const S* x, const S* hidden, const S* weight, const S* bias, S* raw, S* out,
                          S* logdet) {
    constexpr int L = kLanes<S>;
    const int W = layer.tiles.width, P = layer.parameters(), H = layer.hidden, D = layer.features, G = layer.group();
    const auto shares = layer.shares();
    const int parts = int(shares.size()) - 1;
    std::vector<S> units(size_t(H) * W), logs(size_t(layer.groups()) * W);
    for (int tile = 0; tile < layer.tiles.count; ++tile) {
        const int64_t first = layer.tiles.first(tile);
        const int filled = layer.tiles.filled(tile);
        run_parts(parts, layer.threads, [&](int part) {
            const int c = int(int64_t(H) * part / parts), end = int(int64_t(H) * (part + 1) / parts);
            turn_to_tile(hidden + first * H + c, H, filled, W, end - c, units.data() + size_t(c) * W);
        });
        run_parts(parts, layer.threads, [&](int part) {
            std::vector<S> values(size_t(G) * W), scratch(raw ? 0 : size_t(P) * W);
            for (int g = shares[part]; g < shares[part + 1]; ++g) {
                const int from = g * G, end = std::min(D, from + G);
                S* log = logs.data() + size_t(g) * W;
                turn_to_tile(x + first * D + from, D, filled, W, end - from, values.data());
                std::fill(log, log + W, S(0));
                for (int f = from; f < end; ++f) {
                    S* own = raw ? raw + layer.place(tile, f) : scratch.data();
                    const auto ahead = f + 1 < D ? Ahead<S>::over(weight + size_t(f + 1) * P * H, P * H, P, W, layer.reach(f)) : Ahead<S>{};
                    product_of_blocks(P, Numbers<S>{weight + size_t(f) * P * H, H, 1}, layer.reach(f), units.data(), W, W,
                                      from_zero<S>(), into_matrix_with_bias(bias + size_t(f) * P, own, W), ahead);
                    S* value = values.data() + size_t(f - from) * W;
                    for (int c = 0; c < W; c += L) {
                        Vec<S> sum = load(log + c);
                        store(value + c, Splines::template evaluate<S, Bins, Inverse>(own + c, W, load(value + c), layer.shape, sum));
                        store(log + c, sum);
                    }
                    if (raw && filled < W)
                        for (int p = 0; p < P; ++p) std::fill(own + size_t(p) * W + filled, own + size_t(p + 1) * W, S(0));
                }
                turn_from_tile(values.data(), filled, W, end - from, out + first * D + from, D);
            }
        });
        for (int r = 0; r < filled; ++r) {
            double sum = 0;
            for (int g = 0; g < layer.groups(); ++g) sum += logs[size_t(g) * W + r];
            logdet[first + r] = S(sum);
        }
    }
}

// Gradients of one feature's weights, [parameter][hidden unit], and biases over the rows of a tile: the first sets them, the
// others add to them. Behind the reach nothing is written.
template <class S>
inline void weight_gradients(bool add, const S* to_raw, int W, int P, int H, int reach, const S* units, S* grad, S* grad_bias,
                             Ahead<S> ahead) {
    constexpr int L = kLanes<S>;
    const Numbers<S> numbers{to_raw, W, 1};
    const int whole = (reach + L - 1) / L * L;
    const auto into = [=](int r, int c, Vec<S> v) __attribute__((always_inline)) { store_before(grad + ptrdiff_t(r) * H + c, reach - c, v); };
    if (add)
        product_of_blocks(P, numbers, W, units, padded<S>(H), whole, from_matrix<S>(grad, H), into, ahead);
    else
        product_of_blocks(P, numbers, W, units, padded<S>(H), whole, from_zero<S>(), into, ahead);
    for (int p = 0; p < P; ++p) {
        Vec<S> sum{};
        for (int c = 0; c < W; c += L) sum += load(to_raw + size_t(p) * W + c);
        S total = add ? grad_bias[p] : S(0);
        for (int l = 0; l < L; ++l) total += sum[l];
        grad_bias[p] = total;
    }
}

// Gradients. Those by raw parameters from elsewhere (`grad_raw`) and those by weights and biases may be null.
template <class Splines, class S, int Bins, bool Inverse>
void spline_layer_backward(const SplineLayer<S>& layer, const S* x, const S* hidden, const S* weight, const S* raw, const S* grad_out,
                           const S* grad_log, const S* grad_raw, S* grad_x, S* grad_hidden, S* grad_weight, S* grad_bias) {
    constexpr int L = kLanes<S>;
    const int W = layer.tiles.width, P = layer.parameters(), H = layer.hidden, D = layer.features, T = layer.tiles.count;
    const int G = layer.group(), stride = padded<S>(H);
    const auto shares = layer.shares();
    const int parts = int(shares.size()) - 1;
    std::vector<S> units(size_t(T) * W * stride), logs(size_t(T) * W);
    std::copy(grad_log, grad_log + layer.tiles.rows, logs.begin());
    parallel(layer.tiles.rows, 16, layer.threads, [&](int64_t r, int64_t end) {
        for (; r < end; ++r) std::copy(hidden + r * H, hidden + (r + 1) * H, units.data() + r * stride);
    });
    std::vector<std::vector<S>> back(parts);  // gradients of the hidden units from each thread's features, [tile][unit][row]
    run_parts(parts, layer.threads, [&](int part) {
        auto& to_units = back[part];
        to_units.assign(size_t(T) * H * W, S(0));
        std::vector<S> values(size_t(G) * W), grads(size_t(G) * W), to_raw(size_t(G) * P * W);
        // Reaches do not decrease, so what lies behind one has never been written to and stays zero.
        std::vector<S> to_weight(grad_weight ? size_t(G) * P * H + kBlockWidth<S> : 0), to_bias(size_t(G) * P);
        for (int g = shares[part]; g < shares[part + 1]; ++g) {
            const int from = g * G, end = std::min(D, from + G);
            int longest = 0;
            for (int f = from; f < end; ++f) longest = std::max(longest, layer.reach(f));
            for (int tile = 0; tile < T; ++tile) {
                const int64_t first = layer.tiles.first(tile);
                const int filled = layer.tiles.filled(tile);
                turn_to_tile(x + first * D + from, D, filled, W, end - from, values.data());
                turn_to_tile(grad_out + first * D + from, D, filled, W, end - from, grads.data());
                for (int f = from; f < end; ++f) {
                    const int k = f - from;
                    const S *own = raw + layer.place(tile, f), *grad = grads.data() + size_t(k) * W, *log = logs.data() + first;
                    S *to = to_raw.data() + size_t(k) * P * W, *value = values.data() + size_t(k) * W;
                    for (int c = 0; c < W; c += L)
                        store(value + c, Splines::template gradients<S, Bins, Inverse>(own + c, W, load(value + c), load(grad + c),
                                                                                       load(log + c), layer.shape, to + c, W));
                    if (grad_raw) {
                        const S* other = grad_raw + layer.place(tile, f);
                        for (int i = 0; i < P * W; i += L) store(to + i, load(to + i) + load(other + i));
                    }
                    if (grad_weight)
                        weight_gradients(tile > 0, to, W, P, H, layer.reach(f), units.data() + size_t(first) * stride,
                                         to_weight.data() + size_t(k) * P * H, to_bias.data() + size_t(k) * P,
                                         Ahead<S>::over(own + size_t(P) * W, P * W, P, layer.reach(f), W));
                }
                turn_from_tile(values.data(), filled, W, end - from, grad_x + first * D + from, D);
                const auto ahead = end < D && tile + 1 == T
                                       ? Ahead<S>::over(weight + size_t(end) * P * H, int64_t(G) * P * H, longest, W, (end - from) * P)
                                       : Ahead<S>{};
                S* sums = to_units.data() + size_t(tile) * H * W;
                product_of_blocks(longest, Numbers<S>{weight + size_t(from) * P * H, 1, H}, (end - from) * P, to_raw.data(), W, W,
                                  from_matrix<S>(sums, W), into_matrix(sums, W), ahead);
            }
            if (!grad_weight) continue;
            stream_out(to_weight.data(), int64_t(end - from) * P * H, grad_weight + size_t(from) * P * H);
            std::copy(to_bias.begin(), to_bias.begin() + (end - from) * P, grad_bias + size_t(from) * P);
        }
        end_stream();
    });
    run_parts(parts, layer.threads, [&](int part) {
        const int c = int(int64_t(H) * part / parts), end = int(int64_t(H) * (part + 1) / parts);
        for (int tile = 0; tile < T; ++tile) {
            const size_t at = (size_t(tile) * H + c) * W, count = size_t(end - c) * W;
            S* total = back[0].data() + at;
            for (int k = 1; k < parts; ++k)
                for (size_t i = 0; i < count; ++i) total[i] += back[k][at + i];
            turn_from_tile(total, layer.tiles.filled(tile), W, end - c, grad_hidden + layer.tiles.first(tile) * H + c, H);
        }
    });
}

}  // namespace caloforge
