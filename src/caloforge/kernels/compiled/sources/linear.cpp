// C interface of linear.hpp.
#include "linear.hpp"

using namespace caloforge;

// sizes: rows, inputs, outputs, groups. Pointers may be null where linear.hpp says so.
#define CALOFORGE_LINEAR(S, NAME)                                                                                                \
    extern "C" void caloforge_linear_forward_##NAME(const int64_t* sizes, const int* reach, double slope, const int64_t* offsets, \
                                                    int threads, const S* x, const S* weight, const S* bias, const S* extra,    \
                                                    const S* gate, const S* shift, S* out) {                                    \
        const LinearLayer<S> layer{sizes[0], int(sizes[1]), int(sizes[2]), reach, S(slope), sizes[3], offsets, threads};        \
        linear_forward(layer, x, weight, bias, extra, gate, shift, out);                                                        \
    }                                                                                                                            \
    extern "C" void caloforge_linear_backward_##NAME(const int64_t* sizes, const int* reach, double slope,                      \
                                                     const int64_t* offsets, int threads, const S* x, const S* weight,          \
                                                     const S* bias, const S* gate, const S* out, const S* grad, S* before,      \
                                                     S* grad_x, S* grad_weight, S* grad_bias, S* grad_gate, S* grad_shift) {    \
        const LinearLayer<S> layer{sizes[0], int(sizes[1]), int(sizes[2]), reach, S(slope), sizes[3], offsets, threads};        \
        linear_backward(layer, x, weight, bias, gate, out, grad, before, grad_x, grad_weight, grad_bias, grad_gate, grad_shift); \
    }

CALOFORGE_LINEAR(float, f32)
CALOFORGE_LINEAR(double, f64)
