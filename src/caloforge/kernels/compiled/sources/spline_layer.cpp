// C interface of spline_layer.hpp.
#include "spline_layer.hpp"

namespace caloforge {

// Calls `work` with the number of bins as a constant where it is a usual one.
template <class S, bool Inverse, class Work>
inline void with_bins(int bins, Work work) {
    if constexpr (std::is_same_v<S, float>) {
        if (bins == 8) return work(std::integral_constant<int, 8>());
        if (bins == 10) return work(std::integral_constant<int, 10>());
    }
    work(std::integral_constant<int, 0>());
}

template <class S>
struct SplineLayerCall {
    static SplineLayer<S> layer(const int64_t* sizes, const int* reach, const double* shape, int threads) {
        return {RowTiles::of<S>(sizes[0]),
                int(sizes[1]),
                int(sizes[2]),
                reach,
                {int(sizes[3]), shape[0], shape[1], shape[2], shape[3]},
                threads};
    }
};

}  // namespace caloforge

using namespace caloforge;

// sizes: rows, features, hidden units, bins; shape: bound, smallest relative width and height, smallest derivative.
#define CALOFORGE_SPLINE_LAYER(S, NAME)                                                                                       \
    extern "C" void caloforge_spline_layer_tiles_##NAME(int64_t rows, int64_t* tiles) {                                      \
        const RowTiles t = RowTiles::of<S>(rows);                                                                             \
        tiles[0] = t.count;                                                                                                   \
        tiles[1] = t.width;                                                                                                   \
    }                                                                                                                         \
    extern "C" void caloforge_spline_layer_forward_##NAME(const int64_t* sizes, const int* reach, const double* shape,       \
                                                          int inverse, int threads, const S* x, const S* hidden,             \
                                                          const S* weight, const S* bias, S* raw, S* out, S* logdet) {       \
        const auto layer = SplineLayerCall<S>::layer(sizes, reach, shape, threads);                                          \
        if (inverse)                                                                                                          \
            with_bins<S, true>(layer.shape.bins, [&](auto bins) {                                                            \
                spline_layer_forward<S, bins(), true>(layer, x, hidden, weight, bias, raw, out, logdet);                     \
            });                                                                                                               \
        else                                                                                                                  \
            with_bins<S, false>(layer.shape.bins, [&](auto bins) {                                                           \
                spline_layer_forward<S, bins(), false>(layer, x, hidden, weight, bias, raw, out, logdet);                    \
            });                                                                                                               \
    }                                                                                                                         \
    extern "C" void caloforge_spline_layer_backward_##NAME(                                                                  \
        const int64_t* sizes, const int* reach, const double* shape, int inverse, int threads, const S* x, const S* hidden,  \
        const S* weight, const S* raw, const S* grad_out, const S* grad_log, const S* grad_raw, S* grad_x, S* grad_hidden,   \
        S* grad_weight, S* grad_bias) {                                                                                       \
        const auto layer = SplineLayerCall<S>::layer(sizes, reach, shape, threads);                                          \
        if (inverse)                                                                                                          \
            with_bins<S, true>(layer.shape.bins, [&](auto bins) {                                                            \
                spline_layer_backward<S, bins(), true>(layer, x, hidden, weight, raw, grad_out, grad_log, grad_raw, grad_x,  \
                                                       grad_hidden, grad_weight, grad_bias);                                 \
            });                                                                                                               \
        else                                                                                                                  \
            with_bins<S, false>(layer.shape.bins, [&](auto bins) {                                                           \
                spline_layer_backward<S, bins(), false>(layer, x, hidden, weight, raw, grad_out, grad_log, grad_raw, grad_x, \
                                                        grad_hidden, grad_weight, grad_bias);                                \
            });                                                                                                               \
    }

CALOFORGE_SPLINE_LAYER(float, f32)
CALOFORGE_SPLINE_LAYER(double, f64)
