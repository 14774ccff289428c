// Linear layers with what stands around them, forwards and backwards, for training: y = activate(gate (W x + b + extra) + shift).
//
// Rows of activations stay as PyTorch holds them; weights are packed into panels of as many columns as one block of a product
// has, which costs far less than a product. Masked layers, whose rows of weights are zero from some column on, leave out what
// is zero. Gates and shifts belong to groups of consecutive rows (the points of a shower). No number depends on how the work
// is shared out among threads.
#pragma once

#include <vector>

#include "blocks.hpp"
#include "parallel.hpp"

namespace caloforge {

template <class S>
struct LinearLayer {
    int64_t rows;
    int inputs, outputs;
    const int* reach_of;  // non-zero weights of each output, from the first input on, not decreasing; null for all
    S slope;              // leaky ReLU; 1 for none
    int64_t groups;       // of rows; 0 if there are no gates and shifts
    const int64_t* offsets;
    int threads;

    int reach(int output) const { return reach_of ? reach_of[output] : inputs; }
    int first_output_reaching(int input) const {
        return reach_of ? int(std::upper_bound(reach_of, reach_of + outputs, input) - reach_of) : 0;
    }
    double work() const { return double(rows) * inputs * outputs; }
    int useful_threads() const { return work() < 2e5 ? 1 : threads; }
};

// A few rows of one group.
struct RowPiece {
    int64_t first, end, group;
};
constexpr int64_t kPieceRows = 96;

template <class S>
inline std::vector<RowPiece> row_pieces(const LinearLayer<S>& layer) {
    std::vector<RowPiece> pieces;
    const int64_t groups = std::max<int64_t>(1, layer.groups);
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = layer.groups ? layer.offsets[g] : 0, end = layer.groups ? layer.offsets[g + 1] : layer.rows;
        for (int64_t r = begin; r < end; r += kPieceRows) pieces.push_back({r, std::min(end, r + kPieceRows), g});
    }
    return pieces;
}

// Columns of a matrix in panels of kBlockWidth: [panel][row][column], zero beyond the last column.
template <class S>
struct Panels {
    int rows, columns;
    std::vector<S> memory;

    Panels(int rows, int columns) : rows(rows), columns(columns), memory(size_t(rows) * padded<S>(columns)) {}
    int count() const { return padded<S>(columns) / kBlockWidth<S>; }
    S* panel(int p) { return memory.data() + size_t(p) * rows * kBlockWidth<S>; }
    const S* panel(int p) const { return memory.data() + size_t(p) * rows * kBlockWidth<S>; }
    // Columns of a panel that are worth computing, whole vectors.
    int width(int p) const {
        constexpr int L = kLanes<S>;
        return std::min(kBlockWidth<S>, (columns - p * kBlockWidth<S> + L - 1) / L * L);
    }

    // Of a matrix (rows, columns), or of its transpose given as (columns, rows).
    void fill(const S* from, bool transposed, int threads) {
        constexpr int B = kBlockWidth<S>;
        run_parts(count(), double(rows) * columns < 1e5 ? 1 : threads, [&](int p) {
            const int some = std::min(B, columns - p * B);
            S* to = panel(p);
            if (!transposed) {
                for (int r = 0; r < rows; ++r) std::copy_n(from + size_t(r) * columns + p * B, some, to + size_t(r) * B);
                return;
            }
            for (int r0 = 0; r0 < rows; r0 += 16)
                for (int c = 0; c < some; ++c) {
                    const S* source = from + size_t(p * B + c) * rows;
                    for (int r = r0; r < std::min(rows, r0 + 16); ++r) to[size_t(r) * B + c] = source[r];
                }
        });
    }
};

// `bias`, `extra` (rows, outputs), `gate` and `shift` (groups, outputs) may be null, the last two only together.
template <class S>
void linear_forward(const LinearLayer<S>& layer, const S* x, const S* weight, const S* bias, const S* extra, const S* gate, const S* shift,
                    S* out) {
    constexpr int L = kLanes<S>, B = kBlockWidth<S>;
    const int I = layer.inputs, O = layer.outputs, threads = layer.useful_threads();
    Panels<S> panels(I, O);
    panels.fill(weight, true, threads);
    std::vector<S> start(padded<S>(O));
    if (bias) std::copy_n(bias, O, start.begin());
    const S slope = layer.slope;
    const auto pieces = row_pieces(layer);
    run_parts(int(pieces.size()), threads, [&](int k) {
        const RowPiece piece = pieces[k];
        const Numbers<S> numbers{x + piece.first * I, I, 1};
        S* to = out + piece.first * O;
        const S* more = extra ? extra + piece.first * O : nullptr;
        for (int p = 0; p < panels.count(); ++p) {
            const int column = p * B, depth = layer.reach(std::min(O, column + B) - 1), left = O - column;
            const S* bias_at = start.data() + column;
            Vec<S> gates[kBlockColumns], shifts[kBlockColumns];
            for (int c = 0; c < kBlockColumns && gate; ++c) {
                gates[c] = load_before(gate + piece.group * O + column + c * L, left - c * L);
                shifts[c] = load_before(shift + piece.group * O + column + c * L, left - c * L);
            }
            const auto activated = [&](Vec<S> v) { return slope == S(1) ? v : (v > S(0) ? v : v * slope); };
            const auto store_at = [&](int r, int c, Vec<S> v) { store_before(to + size_t(r) * O + column + c, left - c, v); };
            const int rows = int(piece.end - piece.first), width = panels.width(p);
            // Biases come last: sums of small numbers that began with a large one would be rounded at every step.
            const auto biased = [&](int c, Vec<S> v) { return v + load(bias_at + c); };
            const auto zero = from_zero<S>();
            if (gate)
                product_of_blocks(rows, numbers, depth, panels.panel(p), B, width, zero, [&](int r, int c, Vec<S> v) {
                    store_at(r, c, activated(fused(biased(c, v), gates[c / L], shifts[c / L])));
                });
            else if (extra)
                product_of_blocks(rows, numbers, depth, panels.panel(p), B, width, zero, [&](int r, int c, Vec<S> v) {
                    store_at(r, c, activated(biased(c, v) + load_before(more + size_t(r) * O + column + c, left - c)));
                });
            else
                product_of_blocks(rows, numbers, depth, panels.panel(p), B, width, zero,
                                  [&](int r, int c, Vec<S> v) { store_at(r, c, activated(biased(c, v))); });
        }
    });
}

// What reaches the value in front of the activation, whose output is `out`.
template <class S>
inline void before_activation(const S* grad, const S* out, int64_t count, S slope, S* to) {
    constexpr int L = kLanes<S>;
    const auto one = [&](Vec<S> g, Vec<S> y) { return y > S(0) ? g : g * slope; };
    int64_t k = 0;
    for (; k + L <= count; k += L) store(to + k, one(load(grad + k), load(out + k)));
    if (k < count) store_some(to + k, int(count - k), one(load_some(grad + k, int(count - k)), load_some(out + k, int(count - k))));
}

// Gradients of weights and biases, and of gates and shifts, of outputs first ... end.
template <class S>
struct WeightGradients {
    const LinearLayer<S>& layer;
    const S *x, *tail;  // inputs, and their last columns beyond whole blocks with a padding, (rows, kBlockWidth)
    const S *before, *weight, *bias, *gate;
    S *grad_weight, *grad_bias, *grad_gate, *grad_shift;

    void of(int first, int end) const {
        constexpr int L = kLanes<S>, B = kBlockWidth<S>;
        constexpr int64_t depth = 192;
        const int I = layer.inputs, O = layer.outputs, some = end - first, stride = padded<S>(I);
        const int most = (layer.reach(end - 1) + L - 1) / L * L;
        std::vector<S> sums(size_t(some) * stride), biases(some), total(gate ? size_t(some) * stride : 0), total_bias(gate ? some : 0);
        const int64_t groups = std::max<int64_t>(1, layer.groups);
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t begin = layer.groups ? layer.offsets[g] : 0, stop = layer.groups ? layer.offsets[g + 1] : layer.rows;
            std::fill(sums.begin(), sums.end(), S(0));
            std::fill(biases.begin(), biases.end(), S(0));
            for (int64_t r = begin; r < stop; r += depth) {
                const int deep = int(std::min(depth, stop - r));
                const Numbers<S> numbers{before + r * O + first, 1, O};
                for (int c = 0; c < most; c += B) {
                    const bool inside = c + B <= I;
                    S* to = sums.data() + c;
                    product_of_blocks(some, numbers, deep, inside ? x + r * I + c : tail + r * B, inside ? I : B, std::min(B, most - c),
                                      from_matrix<S>(to, stride), into_matrix(to, stride));
                }
                for (int k = 0; k < deep; ++k)
                    for (int o = 0; o < some; ++o) biases[o] += numbers.data[k * ptrdiff_t(O) + o];
            }
            if (!gate) break;
            // The gate's gradient is the sum of dpre (w . x + b) over the rows of the group, and the sums know all of that.
            for (int o = 0; o < some; ++o) {
                const S *w = weight + size_t(first + o) * I, *sum = sums.data() + size_t(o) * stride;
                const S open = gate[g * O + first + o];
                S* all = total.data() + size_t(o) * stride;
                Vec<S> dots{};
                for (int c = 0; c < I; c += L) {
                    dots = fused(load_before(w + c, I - c), load(sum + c), dots);
                    store(all + c, fused(splat(open), load(sum + c), load(all + c)));
                }
                S dot = bias ? bias[first + o] * biases[o] : S(0);
                for (int l = 0; l < L; ++l) dot += dots[l];
                grad_gate[g * O + first + o] = dot;
                grad_shift[g * O + first + o] = biases[o];
                total_bias[o] += open * biases[o];
            }
        }
        const auto& weights = gate ? total : sums;
        for (int o = 0; o < some; ++o) {
            const int reach = layer.reach(first + o);
            S* to = grad_weight + size_t(first + o) * I;
            std::copy_n(weights.data() + size_t(o) * stride, reach, to);
            std::fill(to + reach, to + I, S(0));
            if (grad_bias) grad_bias[first + o] = gate ? total_bias[o] : biases[o];
        }
    }
};

// Gradients. `before` (rows, outputs) gets those in front of the activation, which are also those of `extra`; without an
// activation it may be `grad`. `grad_x`, `grad_weight` (with `grad_bias` or without) may be null.
template <class S>
void linear_backward(const LinearLayer<S>& layer, const S* x, const S* weight, const S* bias, const S* gate, const S* out, const S* grad,
                     S* before, S* grad_x, S* grad_weight, S* grad_bias, S* grad_gate, S* grad_shift) {
    constexpr int L = kLanes<S>, B = kBlockWidth<S>;
    const int I = layer.inputs, O = layer.outputs, threads = layer.useful_threads();
    const auto pieces = row_pieces(layer);
    Panels<S> panels(O, grad_x ? I : 0);
    if (grad_x) panels.fill(weight, false, threads);
    const bool padding = grad_weight && I % B;
    std::vector<S> tail(padding ? size_t(layer.rows) * B : 0);
    const int whole = I / B * B;
    run_parts(int(pieces.size()), threads, [&](int k) {
        const RowPiece piece = pieces[k];
        const int rows = int(piece.end - piece.first);
        S* own = before + piece.first * O;
        if (before != grad) before_activation(grad + piece.first * O, out + piece.first * O, int64_t(rows) * O, layer.slope, own);
        for (int r = 0; r < rows && padding; ++r)
            std::copy_n(x + (piece.first + r) * I + whole, I - whole, tail.data() + (piece.first + r) * B);
        if (!grad_x) return;
        std::vector<S> gated(gate ? size_t(rows) * O : 0);
        for (int r = 0; r < rows && gate; ++r)
            for (int o = 0; o < O; ++o) gated[size_t(r) * O + o] = own[size_t(r) * O + o] * gate[piece.group * O + o];
        S* to = grad_x + piece.first * I;
        for (int p = 0; p < panels.count(); ++p) {
            const int column = p * B, first = layer.first_output_reaching(column), left = I - column;
            product_of_blocks(rows, Numbers<S>{(gate ? gated.data() : own) + first, O, 1}, O - first, panels.panel(p) + size_t(first) * B,
                              B, panels.width(p), from_zero<S>(),
                              [&](int r, int c, Vec<S> v) { store_before(to + size_t(r) * I + column + c, left - c, v); });
        }
    });
    if (!grad_weight) return;
    // Shares of outputs whose sums stay in the second cache.
    const WeightGradients<S> gradients{layer, x,    tail.data(), before,    weight,    bias,
                                       gate,  grad_weight, grad_bias, grad_gate, grad_shift};
    const int blocks = (O + kBlockRows - 1) / kBlockRows;
    const int most = std::max<int>(1, int((size_t(256) << 10) / (sizeof(S) * padded<S>(I) * kBlockRows)));
    const int parts = std::min(blocks, std::max((blocks + most - 1) / most, threads > 1 ? 2 * threads : 1));
    run_parts(parts, threads, [&](int k) {
        const int first = int(int64_t(blocks) * k / parts) * kBlockRows, end = std::min(O, int(int64_t(blocks) * (k + 1) / parts) * kBlockRows);
        gradients.of(first, end);
    });
    (void)L;
}

}  // namespace caloforge
