// Splines element by element, forwards and backwards, with gradients: the training path on a CPU.
//
// Raw parameters arrive as PyTorch holds them, (elements, 3K - 1). A few elements at a time are turned so that the lanes
// are elements; everything about them then stays in registers and the first cache.
#include "blocks.hpp"
#include "parallel.hpp"
#include "spline_gradients.hpp"

namespace caloforge {

// Turn `count` rows into columns of lanes; lanes without a row repeat the last one.
template <class S>
inline void turn_in(const S* rows, int count, int columns, S* out) {
    for (int r = 0; r < kLanes<S>; ++r) {
        const S* row = rows + std::min(r, count - 1) * ptrdiff_t(columns);
        for (int p = 0; p < columns; ++p) out[p * kLanes<S> + r] = row[p];
    }
}

template <class S>
inline void turn_out(const S* in, int count, int columns, S* rows) {
    for (int r = 0; r < count; ++r)
        for (int p = 0; p < columns; ++p) rows[r * ptrdiff_t(columns) + p] = in[p * kLanes<S> + r];
}

template <class S, int Bins, bool Inverse>
void forward(int64_t count, const S* in, const S* raw, const SplineShape& shape, S* out, S* logabsdet, int threads) {
    constexpr int L = kLanes<S>;
    const int columns = 3 * (Bins ? Bins : shape.bins) - 1;
    parallel(count, 64 * kLanes<S>, threads, [&](int64_t first, int64_t end) {
        S turned[(3 * (Bins ? Bins : kMaxBins) - 1) * L];
        for (int64_t at = first; at < end; at += L) {
            const int some = int(std::min<int64_t>(L, end - at));
            turn_in(raw + at * columns, some, columns, turned);
            Vec<S> log{};
            store_some(out + at, some, spline<S, Bins, Inverse>(turned, L, load_some(in + at, some), shape, log));
            store_some(logabsdet + at, some, log);
        }
    });
}

template <class S, int Bins, bool Inverse>
void backward(int64_t count, const S* in, const S* raw, const S* grad_out, const S* grad_log, const SplineShape& shape,
              S* grad_in, S* grad_raw, int threads) {
    constexpr int L = kLanes<S>;
    const int columns = 3 * (Bins ? Bins : shape.bins) - 1;
    parallel(count, 64 * kLanes<S>, threads, [&](int64_t first, int64_t end) {
        S turned[(3 * (Bins ? Bins : kMaxBins) - 1) * L], result[(3 * (Bins ? Bins : kMaxBins) - 1) * L];
        for (int64_t at = first; at < end; at += L) {
            const int some = int(std::min<int64_t>(L, end - at));
            turn_in(raw + at * columns, some, columns, turned);
            store_some(grad_in + at, some,
                       gradients<S, Bins, Inverse>(turned, L, load_some(in + at, some), load_some(grad_out + at, some),
                                                   load_some(grad_log + at, some), shape, result, L));
            turn_out(result, some, columns, grad_raw + at * columns);
        }
    });
}

}  // namespace caloforge

using caloforge::SplineShape;

#define CALOFORGE_CHOOSE(S, function, ...)                                                                       \
    do {                                                                                                         \
        if (bins == 8)                                                                                           \
            inverse ? caloforge::function<S, 8, true>(__VA_ARGS__) : caloforge::function<S, 8, false>(__VA_ARGS__); \
        else                                                                                                     \
            inverse ? caloforge::function<S, 0, true>(__VA_ARGS__) : caloforge::function<S, 0, false>(__VA_ARGS__); \
    } while (0)

#define CALOFORGE_SPLINE_INTERFACE(S, NAME)                                                                            \
    extern "C" void caloforge_spline_forward_##NAME(int64_t count, int inverse, int bins, double bound, double min_width, \
                                                    double min_height, double min_derivative, int threads, const S* in, \
                                                    const S* raw, S* out, S* logabsdet) {                               \
        const SplineShape shape{bins, bound, min_width, min_height, min_derivative};                                    \
        CALOFORGE_CHOOSE(S, forward, count, in, raw, shape, out, logabsdet, threads);                                   \
    }                                                                                                                   \
    extern "C" void caloforge_spline_backward_##NAME(int64_t count, int inverse, int bins, double bound,                \
                                                     double min_width, double min_height, double min_derivative,        \
                                                     int threads, const S* in, const S* raw, const S* grad_out,         \
                                                     const S* grad_log, S* grad_in, S* grad_raw) {                      \
        const SplineShape shape{bins, bound, min_width, min_height, min_derivative};                                    \
        CALOFORGE_CHOOSE(S, backward, count, in, raw, grad_out, grad_log, shape, grad_in, grad_raw, threads);           \
    }

CALOFORGE_SPLINE_INTERFACE(float, f32)
CALOFORGE_SPLINE_INTERFACE(double, f64)
