// Monotonic cubic splines with linear tails (arXiv:1906.02145) and their gradients, side by side in lanes.
// The arithmetic mirrors caloforge.kernels.ops.cubic_splines; see there for the parametrisation.
#pragma once

#include "spline.hpp"

namespace caloforge {

constexpr double kLeastEnd = 1e-3, kLargestEnd = 3.0;  // derivative at an end, relative to the slope of the bin there
constexpr int kCubicSteps = 32;                        // of the bracketed Newton search

// The bin of each lane: its lower corner, and the sizes of it, of the one before and of the one behind (1 where there is none).
template <class S>
struct CubicBin {
    Vec<S> left, bottom, index;
    Vec<S> width, width_before, width_behind, height, height_before, height_behind;
};

// Relative sizes of all bins before the minimum is added, for the gradients, and which sizes were too small to count.
template <class S, int Bins>
struct CubicSizes {
    Vec<S> share_x[Bins ? Bins : kMaxBins], share_y[Bins ? Bins : kMaxBins];
    Vec<S> width[Bins ? Bins : kMaxBins], height[Bins ? Bins : kMaxBins];
};

template <class S, int Bins, bool Inverse>
inline CubicBin<S> locate_cubic(const S* raw, ptrdiff_t stride, Vec<S> value, const SplineShape& shape, CubicSizes<S, Bins>& sizes) {
    const int bins = Bins ? Bins : shape.bins;
    const S bound = S(shape.bound), twice = S(2 * shape.bound);
    const Vec<S> one = splat<S>(1), edge = splat<S>(bound), least = splat<S>(twice * std::numeric_limits<S>::epsilon());
    softmax<S, Bins>(raw, stride, bins, sizes.share_x);
    softmax<S, Bins>(raw + bins * stride, stride, bins, sizes.share_y);
    const S scale_x = S(1 - shape.min_width * bins), scale_y = S(1 - shape.min_height * bins);
    CubicBin<S> bin{-edge, -edge, Vec<S>{}, one, one, one, one, one, one};
    Vec<S> sum_x{}, sum_y{}, knot_x = -edge, knot_y = -edge;
    for (int k = 0; k < bins; ++k) {
        sum_x += sizes.share_x[k] * scale_x + S(shape.min_width);
        sum_y += sizes.share_y[k] * scale_y + S(shape.min_height);
        const Vec<S> next_x = k + 1 < bins ? sum_x * twice - bound : edge, next_y = k + 1 < bins ? sum_y * twice - bound : edge;
        sizes.width[k] = at_least(next_x - knot_x, least);
        sizes.height[k] = at_least(next_y - knot_y, least);
        if (k) {
            const auto beyond = value >= (Inverse ? knot_y : knot_x);
            bin.left = beyond ? knot_x : bin.left;
            bin.bottom = beyond ? knot_y : bin.bottom;
            bin.index = beyond ? splat(S(k)) : bin.index;
        }
        knot_x = next_x;
        knot_y = next_y;
    }
    for (int k = 0; k < bins; ++k) {
        const auto here = bin.index == S(k), before = bin.index == S(k + 1), behind = bin.index == S(k - 1);
        bin.width = here ? sizes.width[k] : bin.width;
        bin.height = here ? sizes.height[k] : bin.height;
        bin.width_before = before ? sizes.width[k] : bin.width_before;
        bin.height_before = before ? sizes.height[k] : bin.height_before;
        bin.width_behind = behind ? sizes.width[k] : bin.width_behind;
        bin.height_behind = behind ? sizes.height[k] : bin.height_behind;
    }
    return bin;
}

// Derivative of the curve at one end of the bin, in units of the bin's slope: a third of it at an end of the interval, else
// Steffen's choice, the least of 2, twice the neighbour's slope, and that of a parabola through three knots.
template <class S>
struct CubicEnd {
    Vec<S> value, ratio, sigmoid;  // ratio of the neighbour's slope to the bin's own

    CubicEnd(Vec<S> width, Vec<S> height, Vec<S> other_width, Vec<S> other_height, Vec<S> raw, Vec<S> at_end) {
        const Vec<S> zero{}, one = splat<S>(1);
        ratio = (other_height * width) / (other_width * height);
        const Vec<S> parabola = (ratio * width + other_width) / (width + other_width);
        const Vec<S> decay = exp_negative<S>(raw > zero ? -raw : raw);
        sigmoid = (raw > zero ? one : decay) / (one + decay);
        const Vec<S> given = S(kLeastEnd) + S(kLargestEnd - 2 * kLeastEnd) * sigmoid;
        value = at_end > zero ? given : smaller(smaller(splat<S>(2), S(2) * ratio), parabola);
    }
};

// The curve from (0, 0) to (1, 1) inside a bin.
template <class S>
struct Cubic {
    Vec<S> start, end;

    Vec<S> height(Vec<S> t) const {
        const Vec<S> rest = S(1) - t;
        return t * (t * (S(3) - S(2) * t) + rest * (start * rest - end * t));
    }
    Vec<S> rise(Vec<S> t) const {
        const Vec<S> rest = S(1) - t;
        return S(6) * t * rest + start * rest * (S(1) - S(3) * t) + end * t * (S(3) * t - S(2));
    }
    // Where the curve has a height: a bracket that Newton's steps close, or bisection where they leave it.
    Vec<S> solve(Vec<S> eta) const {
        const Vec<S> zero{}, one = splat<S>(1), least = splat<S>(std::numeric_limits<S>::min());
        Vec<S> low = zero, high = one, t = smaller(at_least(eta, zero), one);
        for (int k = 0; k < kCubicSteps; ++k) {
            const Vec<S> excess = height(t) - eta;
            const auto below = excess < zero;
            low = below ? t : low;
            high = below ? high : t;
            const Vec<S> newton = t - excess / at_least(rise(t), least);
            t = (newton > low) & (newton < high) ? newton : S(0.5) * (low + high);
        }
        const Vec<S> last = t - (height(t) - eta) / at_least(rise(t), splat<S>(std::numeric_limits<S>::epsilon()));
        return smaller(at_least(last, zero), one);
    }
};

// All that a bin and a value say.
template <class S>
struct CubicAt {
    CubicEnd<S> first, last;
    Cubic<S> curve;
    Vec<S> theta, slope, rise;

    template <bool Inverse>
    static CubicAt of(const CubicBin<S>& bin, Vec<S> value, int bins, const S* raw, ptrdiff_t stride) {
        const Vec<S> zero{}, one = splat<S>(1);
        const S* ends = raw + 2 * bins * stride;
        CubicAt c{{bin.width, bin.height, bin.width_before, bin.height_before, load(ends), bin.index == zero ? one : zero},
                  {bin.width, bin.height, bin.width_behind, bin.height_behind, load(ends + stride),
                   bin.index == S(bins - 1) ? one : zero},
                  {},
                  {},
                  {},
                  {}};
        c.curve = {c.first.value, c.last.value};
        c.theta = Inverse ? c.curve.solve((value - bin.bottom) / bin.height) : (value - bin.left) / bin.width;
        c.slope = bin.height / bin.width;
        c.rise = at_least(c.curve.rise(c.theta), splat<S>(std::numeric_limits<S>::min()));
        return c;
    }
};

// Cubic splines as spline_layer.hpp wants them.
struct CubicSplines {
    static int parameters(int bins) { return 2 * bins + 2; }

    template <class S, int Bins, bool Inverse>
    static Vec<S> evaluate(const S* raw, ptrdiff_t stride, Vec<S> in, const SplineShape& shape, Vec<S>& logdet) {
        const Vec<S> edge = splat<S>(S(shape.bound)), value = clamped<S>(in, shape);
        CubicSizes<S, Bins> sizes;
        const CubicBin<S> bin = locate_cubic<S, Bins, Inverse>(raw, stride, value, shape, sizes);
        const auto c = CubicAt<S>::template of<Inverse>(bin, value, Bins ? Bins : shape.bins, raw, stride);
        const auto inside = (in >= -edge) & (in <= edge);
        const Vec<S> log = inside ? log_positive<S>(c.slope) + log_positive<S>(c.rise) : Vec<S>{};
        logdet += Inverse ? -log : log;
        const Vec<S> out = Inverse ? bin.left + bin.width * c.theta : bin.bottom + bin.height * c.curve.height(c.theta);
        return inside ? out : in;
    }

    // See spline_gradients.hpp for how one expression serves both directions.
    template <class S, int Bins, bool Inverse>
    static Vec<S> gradients(const S* raw, ptrdiff_t stride, Vec<S> in, Vec<S> grad_out, Vec<S> grad_log, const SplineShape& shape,
                            S* grad_raw, ptrdiff_t grad_stride) {
        using V = Vec<S>;
        const int bins = Bins ? Bins : shape.bins;
        const V edge = splat<S>(S(shape.bound)), one = splat<S>(1), zero{};
        const V value = clamped<S>(in, shape);
        CubicSizes<S, Bins> sizes;
        const CubicBin<S> bin = locate_cubic<S, Bins, Inverse>(raw, stride, value, shape, sizes);
        const auto c = CubicAt<S>::template of<Inverse>(bin, value, bins, raw, stride);
        const V t = c.theta, rest = one - t, start = c.curve.start, end = c.curve.end;
        const auto inside = (in >= -edge) & (in <= edge);
        const V keep = inside ? one : zero;

        const V bend = S(6) * (one - S(2) * t) + start * (S(6) * t - S(4)) + end * (S(6) * t - S(2));  // of the rise
        const V along = (grad_out - grad_log * bend / (c.rise * bin.width)) / (c.slope * c.rise);
        const V to_value = (Inverse ? -along : grad_out) * keep, to_log = (Inverse ? -grad_log : grad_log) * keep;
        const V to_curve = to_value * bin.height, to_rise = to_log / c.rise;
        const V to_theta = to_curve * c.rise + to_rise * bend;
        const V to_start = to_curve * t * rest * rest + to_rise * rest * (one - S(3) * t);
        const V to_end = to_rise * t * (S(3) * t - S(2)) - to_curve * t * t * rest;

        V to_width = -(to_theta * t + to_log) / bin.width, to_height = to_value * c.curve.height(t) + to_log / bin.height;
        V other_width[2], other_height[2];
        ends_backward(c.first, bin.width, bin.height, bin.width_before, bin.height_before, bin.index == zero ? zero : to_start, to_width,
                      to_height, other_width[0], other_height[0]);
        ends_backward(c.last, bin.width, bin.height, bin.width_behind, bin.height_behind, bin.index == S(bins - 1) ? zero : to_end,
                      to_width, to_height, other_width[1], other_height[1]);

        const V least = splat<S>(S(2 * shape.bound) * std::numeric_limits<S>::epsilon());
        sizes_backward(sizes.share_x, sizes.width, bins, S((1 - shape.min_width * bins) * 2 * shape.bound), bin.index, least,
                       -to_theta / bin.width, to_width, other_width[0], other_width[1], grad_raw, grad_stride);
        sizes_backward(sizes.share_y, sizes.height, bins, S((1 - shape.min_height * bins) * 2 * shape.bound), bin.index, least, to_value,
                       to_height, other_height[0], other_height[1], grad_raw + bins * grad_stride, grad_stride);
        const S range = S(kLargestEnd - 2 * kLeastEnd);
        store(grad_raw + 2 * bins * grad_stride, bin.index == zero ? to_start * range * c.first.sigmoid * (one - c.first.sigmoid) : zero);
        store(grad_raw + (2 * bins + 1) * grad_stride,
              bin.index == S(bins - 1) ? to_end * range * c.last.sigmoid * (one - c.last.sigmoid) : zero);
        return inside ? (Inverse ? along : to_theta / bin.width) : grad_out;
    }

private:
    // From the gradient of a derivative at an end of the bin to the sizes of the bin and of its neighbour.
    template <class S>
    static void ends_backward(const CubicEnd<S>& e, Vec<S> width, Vec<S> height, Vec<S> other_width, Vec<S> other_height, Vec<S> grad,
                              Vec<S>& to_width, Vec<S>& to_height, Vec<S>& to_other_width, Vec<S>& to_other_height) {
        using V = Vec<S>;
        const V zero{}, both = width + other_width, parabola = (e.ratio * width + other_width) / both, twice = S(2) * e.ratio;
        const auto by_parabola = (parabola < splat<S>(2)) & (parabola < twice), by_other = (twice < splat<S>(2)) & ~by_parabola;
        const V through_sizes = by_parabola ? grad / both : zero;
        const V to_ratio = by_parabola ? grad * width / both : (by_other ? S(2) * grad : zero);
        to_width += through_sizes * (e.ratio - parabola) + to_ratio * e.ratio / width;
        to_height -= to_ratio * e.ratio / height;
        to_other_width = through_sizes * (S(1) - parabola) - to_ratio * e.ratio / other_width;
        to_other_height = to_ratio * e.ratio / other_height;
    }

    // From the lower corner of the bin (the sum of all sizes before it) and three sizes to the raw ones, through the softmax.
    template <class S>
    static void sizes_backward(const Vec<S>* share, const Vec<S>* size, int bins, S scale, Vec<S> index, Vec<S> least, Vec<S> corner,
                               Vec<S> own, Vec<S> before, Vec<S> behind, S* grad_raw, ptrdiff_t stride) {
        using V = Vec<S>;
        const V zero{};
        V mean{};
        // The last knot is fixed, so its bin is what the others leave.
        const V of_last = index == S(bins - 1) ? own : (index == S(bins - 2) ? behind : zero);
        const V last = size[bins - 1] > least ? of_last : zero;
        for (int k = 0; k < bins; ++k) {
            V to = index == S(k) ? own : (index == S(k + 1) ? before : (index == S(k - 1) ? behind : zero));
            to = size[k] > least ? to : zero;
            to += index > S(k) ? corner : zero;
            to = k + 1 < bins ? to - last : zero;
            store(grad_raw + k * stride, to);
            mean += share[k] * to;
        }
        for (int k = 0; k < bins; ++k) store(grad_raw + k * stride, scale * share[k] * (load(grad_raw + k * stride) - mean));
    }
};

}  // namespace caloforge
