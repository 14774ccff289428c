// Dense layers, packed for two uses: for one row at a time, where reading the weights takes nearly all the time, and for
// tiles of rows, whose lanes are the rows. Both add up every output in the same order, so they give equal bits.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "arena.hpp"
#include "product.hpp"

namespace caloforge {

// Most vectors of outputs that one pass over the inputs keeps in registers.
constexpr int kMostPanelVectors = kManyRegisters ? 20 : 12;
constexpr int kTileRows = 12;  // outputs in a panel of the layout for tiles

// y = W x + b. Panel p holds the outputs p * panel ... as [inputs][panel]; what lies beyond the last output is zero.
template <class S>
struct Dense {
    int inputs = 0, outputs = 0, panel = 0;
    const S* weights = nullptr;
    const S* bias = nullptr;  // padded to whole panels

    int panels() const { return (outputs + panel - 1) / panel; }
    int padded() const { return panels() * panel; }
    size_t numbers() const { return size_t(padded()) * (inputs + 1); }

    static Dense shaped(int inputs, int outputs, bool tile) {
        Dense d;
        d.inputs = inputs;
        d.outputs = outputs;
        const int vectors = (outputs + kLanes<S> - 1) / kLanes<S>;
        const int panels = (vectors + kMostPanelVectors - 1) / kMostPanelVectors;
        d.panel = tile ? kTileRows : (vectors + panels - 1) / panels * kLanes<S>;
        return d;
    }

    // The packed numbers begin at `memory`; returns where they end.
    const S* place(const S* memory) {
        weights = memory;
        bias = memory + size_t(padded()) * inputs;
        return memory + numbers();
    }

    // Write row-major weights (rows, inputs) and biases to where they belong, in memory that may be written to; output o is row
    // `row_of(o)`, or zero where that is negative.
    template <class RowOf>
    void pack(const S* w, const S* b, RowOf row_of) const {
        S *panels = const_cast<S*>(weights), *biases = const_cast<S*>(bias);
        for (int o = 0; o < padded(); ++o) {
            const int row = o < outputs ? row_of(o) : -1;
            S* to = panels + size_t(o / panel) * inputs * panel + o % panel;
            for (int k = 0; k < inputs; ++k) to[size_t(k) * panel] = row < 0 ? S(0) : w[size_t(row) * inputs + k];
            biases[o] = row < 0 ? S(0) : b[row];
        }
    }
    void pack(const S* w, const S* b) const {
        pack(w, b, [](int o) { return o; });
    }
};

// The inputs of a single row that are not zero; weights of all others are never read.
template <class S>
struct Inputs {
    std::vector<int> number;
    std::vector<S> value;

    explicit Inputs(int most) {
        number.reserve(most);
        value.reserve(most);
    }
    void clear() {
        number.clear();
        value.clear();
    }
    void add(int k, S v) {
        number.push_back(k);
        value.push_back(v);
    }
    void add_all(const S* from, int count, int first = 0) {
        for (int k = 0; k < count; ++k) add(first + k, from[k]);
    }
    // Those that a ReLU lets through; a NaN passes.
    void add_positive(const S* from, int count) {
        for (int k = 0; k < count; ++k)
            if (!(from[k] <= 0)) add(k, from[k]);
    }
};

template <class S, int Vectors>
void add_to_panel(const S* w, const int* number, const S* value, int count, const S* start, S* out) {
    constexpr int L = kLanes<S>, ahead = 6;
    Vec<S> sum[Vectors];
    CALOFORGE_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[v] = load(start + v * L);
    for (int t = 0; t < count; ++t) {
        const S* row = w + ptrdiff_t(number[t]) * (Vectors * L);
        const S* later = w + ptrdiff_t(number[t + ahead < count ? t + ahead : count - 1]) * (Vectors * L);
        const Vec<S> x = splat(value[t]);
        CALOFORGE_UNROLL
        for (int v = 0; v < Vectors; ++v) {
            if (v * kVectorBytes % 64 == 0) __builtin_prefetch(later + v * L);
            sum[v] = fused(x, load(row + v * L), sum[v]);
        }
    }
    CALOFORGE_UNROLL
    for (int v = 0; v < Vectors; ++v) store(out + v * L, sum[v]);
}

template <class S, size_t... K>
constexpr auto panel_functions(std::index_sequence<K...>) {
    return std::array<void (*)(const S*, const int*, const S*, int, const S*, S*), sizeof...(K)>{&add_to_panel<S, int(K) + 1>...};
}

// All outputs of a single row, padded; `d` has the layout for single rows.
template <class S>
inline void dense_single(const Dense<S>& d, const Inputs<S>& x, S* out) {
    static constexpr auto functions = panel_functions<S>(std::make_index_sequence<kMostPanelVectors>{});
    const auto function = functions[d.panel / kLanes<S> - 1];
    for (int p = 0; p < d.panels(); ++p)
        function(d.weights + size_t(p) * d.inputs * d.panel, x.number.data(), x.value.data(), int(x.number.size()),
                 d.bias + p * d.panel, out + p * d.panel);
}

// Activations of a tile: strips of kColumns vectors of rows, each strip [unit][lane] in one piece.
template <class S>
struct Activations {
    static constexpr int width = kColumns * kLanes<S>;
    S* memory = nullptr;
    int units = 0;
    S* unit(int strip, int number) const { return memory + (ptrdiff_t(strip) * units + number) * width; }
};

// Rows first ... of `to` = finish(output, vector) of the layer's outputs; every panel of weights serves all strips.
template <class S, class Finish>
inline void dense_tile(const Dense<S>& d, int strips, const Activations<S>& from, const Activations<S>& to, Finish finish) {
    constexpr int width = Activations<S>::width;
    for (int p = 0; p < d.panels(); ++p) {
        const S* w = d.weights + size_t(p) * d.inputs * d.panel;
        const S* ahead = p + 1 < d.panels() ? w + size_t(d.inputs) * d.panel : w;
        const int first = p * d.panel, rows = std::min(d.panel, d.outputs - first);
        for (int s = 0; s < strips; ++s) {
            S* out = to.unit(s, first);
            product_all_rows<S, kColumns>(rows, w, d.panel, d.inputs, from.unit(s, 0), width, d.bias + first, 0, out, width,
                                          ahead);
            for (int r = 0; r < rows; ++r)
                for (int c = 0; c < kColumns; ++c) {
                    S* at = out + r * width + c * kLanes<S>;
                    store(at, finish(first + r, load(at)));
                }
        }
    }
}

// Turn `count` packed rows of `length` numbers in; lanes beyond the last one repeat it, so that they stay harmless.
template <class S>
inline void turn_rows_in(const S* rows, int count, int length, int strips, const Activations<S>& to, int first_unit = 0) {
    constexpr int width = Activations<S>::width;
    for (int s = 0; s < strips; ++s)
        for (int r = 0; r < width; ++r) {
            const S* row = rows + std::min(s * width + r, count - 1) * ptrdiff_t(length);
            for (int k = 0; k < length; ++k) to.unit(s, first_unit + k)[r] = row[k];
        }
}

template <class S>
inline void turn_rows_out(const Activations<S>& from, int count, int length, S* rows) {
    constexpr int width = Activations<S>::width;
    for (int row = 0; row < count; ++row)
        for (int k = 0; k < length; ++k) rows[row * ptrdiff_t(length) + k] = from.unit(row / width, k)[row % width];
}

}  // namespace caloforge
