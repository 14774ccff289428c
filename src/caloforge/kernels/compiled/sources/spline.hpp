// Rational-quadratic splines with linear tails (arXiv:1906.04032), 16 (float, AVX-512) or fewer of them side by side.
// The arithmetic mirrors caloforge.kernels.ops.splines; see there for the parametrisation.
#pragma once

#include <algorithm>

#include "vector_math.hpp"

namespace caloforge {

constexpr int kMaxBins = 64;

struct SplineShape {
    int bins;
    double bound, min_width, min_height, min_derivative;
};

// One bin in each lane: its corners and the derivatives at them.
template <class S>
struct Bin {
    Vec<S> left, right, bottom, top, slope_left, slope_right;
    Vec<S> index;  // 0 .. bins - 1, a whole number
};

// Relative sizes of all bins before the minimum is added (softmax weights); filled only where gradients are wanted.
template <class S, int Bins>
struct Sizes {
    Vec<S> width[Bins ? Bins : kMaxBins], height[Bins ? Bins : kMaxBins];
};

// Softmax weights of `bins` rows (each a vector of lanes, `stride` apart).
template <class S, int Bins>
inline void softmax(const S* raw, ptrdiff_t stride, int bins, Vec<S>* out) {
    if (Bins) bins = Bins;
    Vec<S> top = load(raw);
    for (int k = 1; k < bins; ++k) top = at_least(top, load(raw + k * stride));
    Vec<S> sum = out[0] = exp_negative<S>(load(raw) - top);
    for (int k = 1; k < bins; ++k) sum += out[k] = exp_negative<S>(load(raw + k * stride) - top);
    const Vec<S> scale = S(1) / sum;
    for (int k = 0; k < bins; ++k) out[k] *= scale;
}

// Find the bin of `value` (clamped to the interval) along x, or along y for the inverse.
template <class S, int Bins, bool Inverse>
inline Bin<S> locate(const S* raw, ptrdiff_t stride, Vec<S> value, const SplineShape& shape, Sizes<S, Bins>& sizes) {
    const int bins = Bins ? Bins : shape.bins;
    const S bound = S(shape.bound), twice = S(2 * shape.bound);
    softmax<S, Bins>(raw, stride, bins, sizes.width);
    softmax<S, Bins>(raw + bins * stride, stride, bins, sizes.height);
    const S min_width = S(shape.min_width), width_scale = S(1 - shape.min_width * bins);
    const S min_height = S(shape.min_height), height_scale = S(1 - shape.min_height * bins);
    const S* derivative = raw + 2 * bins * stride;

    const Vec<S> edge = splat<S>(bound), one = splat<S>(1);
    Vec<S> width_sum = sizes.width[0] * width_scale + min_width, height_sum = sizes.height[0] * height_scale + min_height;
    Vec<S> knot_x = width_sum * twice - bound, knot_y = height_sum * twice - bound;
    if (bins == 1) knot_x = knot_y = edge;
    Bin<S> bin;
    bin.left = bin.bottom = -edge;
    bin.right = knot_x;
    bin.top = knot_y;
    bin.index = Vec<S>{};
    Vec<S> raw_left{}, raw_right = bins > 1 ? load(derivative) : Vec<S>{};
    for (int k = 1; k < bins; ++k) {
        Vec<S> next_x = edge, next_y = edge, next_derivative{};
        if (k + 1 < bins) {
            width_sum += sizes.width[k] * width_scale + min_width;
            height_sum += sizes.height[k] * height_scale + min_height;
            next_x = width_sum * twice - bound;
            next_y = height_sum * twice - bound;
            next_derivative = load(derivative + k * stride);
        }
        const auto beyond = value >= (Inverse ? knot_y : knot_x);
        bin.left = beyond ? knot_x : bin.left;
        bin.bottom = beyond ? knot_y : bin.bottom;
        bin.right = beyond ? next_x : bin.right;
        bin.top = beyond ? next_y : bin.top;
        bin.index = beyond ? splat(S(k)) : bin.index;
        raw_left = beyond ? load(derivative + (k - 1) * stride) : raw_left;
        raw_right = beyond ? next_derivative : raw_right;
        knot_x = next_x;
        knot_y = next_y;
    }
    // The slope is exactly 1 at both ends of the interval.
    const S least = S(shape.min_derivative);
    bin.slope_left = bin.index == S(0) ? one : softplus<S>(raw_left) + least;
    bin.slope_right = bin.index == S(bins - 1) ? one : softplus<S>(raw_right) + least;
    return bin;
}

// The curve inside the bin of each lane.
template <class S>
struct Curve {
    Vec<S> least;  // smallest size of a bin that still has a meaning
    Vec<S> width, height, delta, curvature;
    Vec<S> theta, rest, spread;  // theta, 1 - theta and their product; theta is the relative position in the bin
    Vec<S> under, numerator;     // 1 / (delta + curvature * spread); slope = (delta * under)^2 * numerator

    template <bool Inverse>
    static Curve at(const Bin<S>& bin, Vec<S> value, const SplineShape& shape) {
        Curve c;
        c.least = splat<S>(S(2 * shape.bound) * std::numeric_limits<S>::epsilon());
        c.width = at_least(bin.right - bin.left, c.least);
        c.height = at_least(bin.top - bin.bottom, c.least);
        c.delta = c.height / c.width;
        c.curvature = bin.slope_left + bin.slope_right - S(2) * c.delta;
        c.theta = Inverse ? c.solve(bin, (value - bin.bottom) / c.height) : (value - bin.left) / c.width;
        c.rest = S(1) - c.theta;
        c.spread = c.theta * c.rest;
        c.under = S(1) / (c.delta + c.curvature * c.spread);
        c.numerator = bin.slope_right * c.theta * c.theta + S(2) * c.delta * c.spread + bin.slope_left * c.rest * c.rest;
        return c;
    }

    // Relative position at relative height eta: of the two forms of the root the one in which nothing cancels.
    Vec<S> solve(const Bin<S>& bin, Vec<S> eta) const {
        const Vec<S> a = delta - bin.slope_left + eta * curvature;
        const Vec<S> b = bin.slope_left - eta * curvature;
        const Vec<S> c = delta * eta;
        const Vec<S> root = square_root(at_least(b * b + S(4) * a * c, splat<S>(std::numeric_limits<S>::min())));
        const auto rising = b >= S(0);
        return (rising ? S(2) * c : root - b) / (rising ? b + root : S(2) * a);
    }

    // Height above the lower corner, relative to the bin.
    Vec<S> rise(const Bin<S>& bin) const { return (delta * theta * theta + bin.slope_left * spread) * under; }

    Vec<S> log_slope() const {
        const Vec<S> ratio = delta * under;
        return log_positive<S>(numerator * ratio * ratio);
    }
};

template <class S>
inline Vec<S> clamped(Vec<S> value, const SplineShape& shape) {
    const Vec<S> edge = splat<S>(S(shape.bound));
    return smaller(at_least(value, -edge), edge);
}

// Forward (data to latent) or inverse spline, adding the logarithm of the derivative of that direction to `logdet`.
template <class S, int Bins, bool Inverse>
inline Vec<S> spline(const S* raw, ptrdiff_t stride, Vec<S> in, const SplineShape& shape, Vec<S>& logdet) {
    const Vec<S> edge = splat<S>(S(shape.bound)), value = clamped<S>(in, shape);
    Sizes<S, Bins> sizes;
    const Bin<S> bin = locate<S, Bins, Inverse>(raw, stride, value, shape, sizes);
    const Curve<S> curve = Curve<S>::template at<Inverse>(bin, value, shape);
    const auto inside = (in >= -edge) & (in <= edge);
    const Vec<S> log = inside ? curve.log_slope() : Vec<S>{};
    logdet += Inverse ? -log : log;
    const Vec<S> out = Inverse ? bin.left + curve.theta * curve.width : bin.bottom + curve.rise(bin) * curve.height;
    return inside ? out : in;
}

// The same for the bin count most flows use, known to the compiler, or for any other.
template <class S, bool Inverse>
inline Vec<S> any_spline(const S* raw, ptrdiff_t stride, Vec<S> in, const SplineShape& shape, Vec<S>& logdet) {
    return shape.bins == 8 ? spline<S, 8, Inverse>(raw, stride, in, shape, logdet)
                           : spline<S, 0, Inverse>(raw, stride, in, shape, logdet);
}

}  // namespace caloforge
