// Linear-rational splines (arXiv:2001.05168, section 4.1), a vector of them side by side, in the direction of sampling.
// The arithmetic mirrors caloforge.kernels.ops.linear_rational; see there for the parametrisation.
#pragma once

#include "spline.hpp"

namespace caloforge {

struct LinearRationalShape {
    int bins;
    double bound, min_size, min_slope, slope_shift, margin;
    int parameters() const { return 4 * bins - 1; }
};

template <class S>
inline Vec<S> sigmoid(Vec<S> v) {
    const Vec<S> e = exp_negative<S>(v > S(0) ? -v : v);
    return (v > S(0) ? splat<S>(1) : e) / (S(1) + e);
}

// Raw parameters are rows of lanes, `stride` apart.
template <class S>
inline Vec<S> linear_rational(const S* raw, ptrdiff_t stride, Vec<S> in, const LinearRationalShape& shape) {
    const int bins = shape.bins;
    const Vec<S> edge = splat<S>(S(shape.bound)), one = splat<S>(1), value = smaller(at_least(in, -edge), edge);
    Vec<S> widths[kMaxBins], heights[kMaxBins];
    softmax<S, 0>(raw, stride, bins, widths);
    softmax<S, 0>(raw + bins * stride, stride, bins, heights);
    const S least = S(shape.min_size), scale = S(1 - shape.min_size * bins), twice = S(2 * shape.bound);
    const S *slopes = raw + 2 * bins * stride, *lambdas = slopes + (bins - 1) * stride;

    Vec<S> left = -edge, bottom = -edge, right = edge, top = edge, index{};
    Vec<S> raw_left{}, raw_right{}, raw_lambda = load(lambdas);
    Vec<S> sum_x{}, sum_y{};
    for (int k = 1; k <= bins; ++k) {  // the right end of bin k - 1
        sum_x += least + scale * widths[k - 1];
        sum_y += least + scale * heights[k - 1];
        const Vec<S> knot_x = k < bins ? twice * sum_x - S(shape.bound) : edge;
        const Vec<S> knot_y = k < bins ? twice * sum_y - S(shape.bound) : edge;
        const Vec<S> raw_slope = k < bins ? load(slopes + (k - 1) * stride) : Vec<S>{};
        const auto ends = index == S(k - 1);
        right = ends ? knot_x : right;
        top = ends ? knot_y : top;
        raw_right = ends ? raw_slope : raw_right;
        if (k == bins) break;
        const auto beyond = ends & (value >= knot_x);
        left = beyond ? knot_x : left;
        bottom = beyond ? knot_y : bottom;
        raw_left = beyond ? raw_slope : raw_left;
        raw_lambda = beyond ? load(lambdas + k * stride) : raw_lambda;
        index = beyond ? splat(S(k)) : index;
    }
    const S shift = S(shape.slope_shift), min_slope = S(shape.min_slope), margin = S(shape.margin);
    const Vec<S> slope_left = index == S(0) ? one : min_slope + softplus<S>(raw_left + shift);
    const Vec<S> slope_right = index == S(bins - 1) ? one : min_slope + softplus<S>(raw_right + shift);
    const Vec<S> lambda = margin + S(1 - 2 * shape.margin) * sigmoid<S>(raw_lambda), rest = one - lambda;

    const Vec<S> width = right - left, height = top - bottom;
    const Vec<S> weight_right = square_root(slope_left / slope_right);
    const Vec<S> weight_middle = (lambda * slope_left + rest * weight_right * slope_right) * width / height;
    const Vec<S> middle = (rest * bottom + lambda * weight_right * top) / (rest + lambda * weight_right);
    const Vec<S> theta = (value - left) / width;
    const auto first = theta <= lambda;
    const Vec<S> low = first ? lambda - theta : weight_middle * (one - theta);
    const Vec<S> high = first ? weight_middle * theta : weight_right * (theta - lambda);
    const Vec<S> out = (low * (first ? bottom : middle) + high * (first ? middle : top)) / (low + high);
    return (in >= -edge) & (in <= edge) ? out : in;
}

}  // namespace caloforge
