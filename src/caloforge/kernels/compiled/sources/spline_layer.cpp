// C interface of spline_layer.hpp.
#include "spline_layer.hpp"

namespace caloforge {

// Calls `work` with the kind of splines, their direction, and the number of bins as a constant where it is a usual one.
template <class S, class Work>
inline void with_splines(int kind, int inverse, int bins, Work work) {
    const auto direction = [&](auto splines, auto count) {
        inverse ? work(splines, count, std::true_type()) : work(splines, count, std::false_type());
    };
    if (kind == 1) return direction(CubicSplines(), std::integral_constant<int, 0>());
    if constexpr (std::is_same_v<S, float>) {
        if (bins == 8) return direction(RationalSplines(), std::integral_constant<int, 8>());
        if (bins == 10) return direction(RationalSplines(), std::integral_constant<int, 10>());
    }
    direction(RationalSplines(), std::integral_constant<int, 0>());
}

// sizes: rows, features, hidden units, bins; shape: bound, smallest relative width and height, smallest derivative.
template <class S>
inline SplineLayer<S> layer_of(const int64_t* sizes, const int* reach, const double* shape, int kind, int threads) {
    const int bins = int(sizes[3]);
    return {RowTiles::of<S>(sizes[0]),
            int(sizes[1]),
            int(sizes[2]),
            reach,
            {bins, shape[0], shape[1], shape[2], shape[3]},
            threads,
            kind == 1 ? CubicSplines::parameters(bins) : RationalSplines::parameters(bins)};
}

}  // namespace caloforge

using namespace caloforge;

// kind: 0 for rational-quadratic splines, 1 for cubic ones.
#define CALOFORGE_SPLINE_LAYER(S, NAME)                                                                                       \
    extern "C" void caloforge_spline_layer_tiles_##NAME(int64_t rows, int64_t* tiles) {                                      \
        const RowTiles t = RowTiles::of<S>(rows);                                                                             \
        tiles[0] = t.count;                                                                                                   \
        tiles[1] = t.width;                                                                                                   \
    }                                                                                                                         \
    extern "C" void caloforge_spline_layer_forward_##NAME(const int64_t* sizes, const int* reach, const double* shape,       \
                                                          int kind, int inverse, int threads, const S* x, const S* hidden,   \
                                                          const S* weight, const S* bias, S* raw, S* out, S* logdet) {       \
        const auto layer = layer_of<S>(sizes, reach, shape, kind, threads);                                                  \
        with_splines<S>(kind, inverse, layer.shape.bins, [&](auto splines, auto bins, auto back) {                           \
            spline_layer_forward<decltype(splines), S, bins(), back()>(layer, x, hidden, weight, bias, raw, out, logdet);    \
        });                                                                                                                   \
    }                                                                                                                         \
    extern "C" void caloforge_spline_layer_backward_##NAME(                                                                  \
        const int64_t* sizes, const int* reach, const double* shape, int kind, int inverse, int threads, const S* x,         \
        const S* hidden, const S* weight, const S* raw, const S* grad_out, const S* grad_log, const S* grad_raw, S* grad_x,  \
        S* grad_hidden, S* grad_weight, S* grad_bias) {                                                                       \
        const auto layer = layer_of<S>(sizes, reach, shape, kind, threads);                                                  \
        with_splines<S>(kind, inverse, layer.shape.bins, [&](auto splines, auto bins, auto back) {                           \
            spline_layer_backward<decltype(splines), S, bins(), back()>(layer, x, hidden, weight, raw, grad_out, grad_log,   \
                                                                        grad_raw, grad_x, grad_hidden, grad_weight,          \
                                                                        grad_bias);                                          \
        });                                                                                                                   \
    }

CALOFORGE_SPLINE_LAYER(float, f32)
CALOFORGE_SPLINE_LAYER(double, f64)
