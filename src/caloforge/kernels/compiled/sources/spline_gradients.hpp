// Gradients of rational-quadratic splines by their inputs and raw parameters, side by side.
#pragma once

#include "spline.hpp"

namespace caloforge {

// What reaches the raw sizes from the gradients of the lower and upper corner of the bin, through knots and softmax.
template <class S>
inline void sizes_backward(const Vec<S>* weight, int bins, S scale, Vec<S> index, Vec<S> lower, Vec<S> upper, S* grad_raw,
                           ptrdiff_t stride) {
    const Vec<S> both = lower + upper, zero{};
    Vec<S> mean{};
    for (int k = 0; k < bins; ++k) {
        // Corner number j is the sum of all sizes below it.
        const Vec<S> to_size = index > S(k) ? both : (index == S(k) ? upper : zero);
        mean += weight[k] * to_size;
    }
    for (int k = 0; k < bins; ++k) {
        const Vec<S> to_size = index > S(k) ? both : (index == S(k) ? upper : zero);
        store(grad_raw + k * stride, scale * weight[k] * (to_size - mean));
    }
}

// Gradients by the input (returned) and by the raw parameters.
//
// Let y = Y(x; q) be the curve in a bin with parameters q (corners and slopes) and L = log Y'. Forwards the gradients by
// q are g_y Y_q + g_L L_q. Backwards, x solves Y(x; q) = y and the logarithm is -L, hence with A = (g_x - g_L L_x) / Y'
// the gradient by y is A and those by q are -A Y_q - g_L L_q: the same expression with other factors.
template <class S, int Bins, bool Inverse>
inline Vec<S> gradients(const S* raw, ptrdiff_t stride, Vec<S> in, Vec<S> grad_out, Vec<S> grad_log, const SplineShape& shape, S* grad_raw,
                        ptrdiff_t grad_stride) {
    using V = Vec<S>;
    const int bins = Bins ? Bins : shape.bins;
    const V edge = splat<S>(S(shape.bound)), one = splat<S>(1), zero{};
    const V value = clamped<S>(in, shape);
    Sizes<S, Bins> sizes;
    const Bin<S> bin = locate<S, Bins, Inverse>(raw, stride, value, shape, sizes);
    const Curve<S> c = Curve<S>::template at<Inverse>(bin, value, shape);
    const V rise = c.rise(bin), over = one / c.numerator, slope = c.delta * c.delta * c.numerator * c.under * c.under;

    const V middle = c.rest - c.theta;  // derivative of theta (1 - theta)
    const V log_theta = S(2) * ((bin.slope_right * c.theta - bin.slope_left * c.rest + c.delta * middle) * over -
                                c.curvature * middle * c.under);
    const V log_delta = S(2) * (c.spread * over + one / c.delta - (one - S(2) * c.spread) * c.under);
    const V log_left = c.rest * c.rest * over - S(2) * c.spread * c.under;
    const V log_right = c.theta * c.theta * over - S(2) * c.spread * c.under;

    const V per_width = one / c.width;
    const V along = (grad_out - grad_log * log_theta * per_width) / slope;
    const V to_value = Inverse ? -along : grad_out, to_log = Inverse ? -grad_log : grad_log;
    const V to_rise = to_value * c.height;
    const V grad_theta = to_value * slope * c.width + to_log * log_theta;
    const V grad_delta = to_rise * (c.theta * c.theta - rise * (one - S(2) * c.spread)) * c.under + to_log * log_delta;
    const V grad_slope_left = to_rise * c.spread * (one - rise) * c.under + to_log * log_left;
    const V grad_slope_right = to_log * log_right - to_rise * rise * c.spread * c.under;

    // Sizes held at their smallest value, ends of the interval and inputs outside it pass nothing on.
    const auto inside = (in >= -edge) & (in <= edge);
    const V keep = inside ? one : zero;
    const V grad_height = bin.top - bin.bottom > c.least ? to_value * rise + grad_delta * per_width : zero;
    const V grad_width =
        bin.right - bin.left > c.least ? -(grad_delta * c.delta + grad_theta * c.theta) * per_width : zero;
    const auto first = bin.index == S(0), last = bin.index == S(bins - 1);
    const V left = first ? zero : -(grad_theta * per_width + grad_width) * keep, right = last ? zero : grad_width * keep;
    const V bottom = first ? zero : (to_value - grad_height) * keep, top = last ? zero : grad_height * keep;
    const S width_scale = S((1 - shape.min_width * bins) * 2 * shape.bound);
    const S height_scale = S((1 - shape.min_height * bins) * 2 * shape.bound);
    sizes_backward<S>(sizes.width, bins, width_scale, bin.index, left, right, grad_raw, grad_stride);
    sizes_backward<S>(sizes.height, bins, height_scale, bin.index, bottom, top, grad_raw + bins * grad_stride, grad_stride);
    for (int k = 1; k < bins; ++k) {  // interior knot k
        const V v = load(raw + (2 * bins + k - 1) * stride), decay = exp_negative<S>(v > zero ? -v : v);
        const V sigmoid = (v > zero ? one : decay) / (one + decay);
        const V to_slope = bin.index == S(k) ? grad_slope_left : (bin.index == S(k - 1) ? grad_slope_right : zero);
        store(grad_raw + (2 * bins + k - 1) * grad_stride, to_slope * sigmoid * keep);
    }
    return inside ? (Inverse ? along : grad_theta * per_width) : grad_out;
}

// Rational-quadratic splines as spline_layer.hpp wants them.
struct RationalSplines {
    static int parameters(int bins) { return 3 * bins - 1; }

    template <class S, int Bins, bool Inverse>
    static Vec<S> evaluate(const S* raw, ptrdiff_t stride, Vec<S> in, const SplineShape& shape, Vec<S>& logdet) {
        return spline<S, Bins, Inverse>(raw, stride, in, shape, logdet);
    }
    template <class S, int Bins, bool Inverse>
    static Vec<S> gradients(const S* raw, ptrdiff_t stride, Vec<S> in, Vec<S> grad_out, Vec<S> grad_log, const SplineShape& shape,
                            S* grad_raw, ptrdiff_t grad_stride) {
        return caloforge::gradients<S, Bins, Inverse>(raw, stride, in, grad_out, grad_log, shape, grad_raw, grad_stride);
    }
};

}  // namespace caloforge
