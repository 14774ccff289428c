// One step of Adam (arXiv:1412.6980) for many tensors, each number read and written once.
#include <cmath>
#include <type_traits>
#include <vector>

#include "blocks.hpp"
#include "parallel.hpp"

namespace caloforge {

// rate: learning rate over the first bias correction. scale: root of the second one. decay: of the weights; decoupled
// (arXiv:1711.05101, then times the learning rate) or added to the gradient.
struct AdamStep {
    double rate, beta1, beta2, scale, eps, decay, shrink;
};

template <class S>
struct AdamTensor {
    S* weight;
    const S* grad;
    S *mean, *square;
    int64_t rows, columns;
    // For each row, where weights and moments begin to be zero, which masked ones always are; null to take every number.
    int* extent;
};

template <class S>
inline void adam_numbers(const AdamTensor<S>& t, int64_t at, int64_t count, const AdamStep& step) {
    constexpr int L = kLanes<S>;
    const Vec<S> one_less = splat(S(1 - step.beta1)), beta2 = splat(S(step.beta2)), square_less = splat(S(1 - step.beta2));
    const Vec<S> rate = splat(S(step.rate)), eps = splat(S(step.eps)), over = splat(S(1 / step.scale));
    const Vec<S> decay = splat(S(step.decay)), shrink = splat(S(step.shrink));
    const auto work = [&](Vec<S>& w, Vec<S> g, Vec<S>& m, Vec<S>& v) {
        w *= shrink;
        g = fused(decay, w, g);
        m = fused(one_less, g - m, m);
        v = fused(square_less * g, g, beta2 * v);
        w -= rate * m / (square_root(v) * over + eps);
    };
    int64_t k = at;
    for (; k + L <= at + count; k += L) {
        Vec<S> w = load(t.weight + k), m = load(t.mean + k), v = load(t.square + k);
        work(w, load(t.grad + k), m, v);
        store(t.weight + k, w);
        store(t.mean + k, m);
        store(t.square + k, v);
    }
    if (const int left = int(at + count - k)) {
        Vec<S> w = load_some(t.weight + k, left), m = load_some(t.mean + k, left), v = load_some(t.square + k, left);
        work(w, load_some(t.grad + k, left), m, v);
        store_some(t.weight + k, left, w);
        store_some(t.mean + k, left, m);
        store_some(t.square + k, left, v);
    }
}

// Where the numbers from `from` to `end` are zero up to the end.
template <class S>
inline int last_nonzero(const S* row, int from, int end) {
    using Bits = std::conditional_t<sizeof(S) == 4, uint32_t, uint64_t>;
    constexpr int many = 64;
    while (end - from >= many) {
        Bits bits[many], any = 0;
        std::memcpy(bits, row + end - many, sizeof(bits));
        for (int k = 0; k < many; ++k) any |= bits[k] << 1;  // zero may have a sign
        if (any) break;
        end -= many;
    }
    while (end > from && row[end - 1] == S(0)) --end;
    return end;
}

template <class S>
void adam(const std::vector<AdamTensor<S>>& tensors, const AdamStep& step, int threads) {
    constexpr int64_t portion = 1 << 16;
    struct Piece {
        const AdamTensor<S>* tensor;
        int64_t first, end;  // numbers, or rows where there are extents
    };
    std::vector<Piece> pieces;
    for (const auto& t : tensors) {
        const int64_t count = t.extent ? t.rows : t.rows * t.columns;
        const int64_t each = t.extent ? std::max<int64_t>(1, portion / std::max<int64_t>(1, t.columns)) : portion;
        for (int64_t k = 0; k < count; k += each) pieces.push_back({&t, k, std::min(count, k + each)});
    }
    run_parts(int(pieces.size()), threads, [&](int k) {
        const Piece piece = pieces[k];
        const AdamTensor<S>& t = *piece.tensor;
        if (!t.extent) return adam_numbers(t, piece.first, piece.end - piece.first, step);
        for (int64_t r = piece.first; r < piece.end; ++r) {
            const int64_t at = r * t.columns;
            const int columns = int(t.columns);
            int extent = t.extent[r];
            if (extent < 0) {
                extent = last_nonzero(t.weight + at, 0, columns);
                extent = last_nonzero(t.mean + at, extent, columns);
                extent = last_nonzero(t.square + at, extent, columns);
            }
            t.extent[r] = extent = last_nonzero(t.grad + at, extent, columns);
            adam_numbers(t, at, extent, step);
        }
    });
}

}  // namespace caloforge

using namespace caloforge;

// addresses: for each tensor its weights, gradients, means, squares and extents (or null); shapes: rows and columns of each.
// numbers: rate, beta1, beta2, scale, eps, decay, shrink as in AdamStep.
#define CALOFORGE_ADAM(S, NAME)                                                                                                   \
    extern "C" void caloforge_adam_##NAME(int64_t count, void* const* addresses, const int64_t* shapes, const double* numbers,   \
                                          int threads) {                                                                         \
        std::vector<AdamTensor<S>> tensors;                                                                                       \
        for (int64_t k = 0; k < count; ++k) {                                                                                    \
            void* const* a = addresses + 5 * k;                                                                                  \
            tensors.push_back({static_cast<S*>(a[0]), static_cast<const S*>(a[1]), static_cast<S*>(a[2]), static_cast<S*>(a[3]), \
                               shapes[2 * k], shapes[2 * k + 1], static_cast<int*>(a[4])});                                      \
        }                                                                                                                         \
        adam(tensors, {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]}, threads);            \
    }

CALOFORGE_ADAM(float, f32)
CALOFORGE_ADAM(double, f64)
