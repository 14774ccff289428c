// The inverse spline of a single value: the lanes are its parameters, for the latency of one shower.
#pragma once

#include "spline.hpp"

namespace caloforge {

// `raw` has room for a vector beyond its end. Returns the data value and adds log |dx/dz| to `logdet`.
template <class S>
inline S single_spline_inverse(const S* raw, S z, const SplineShape& shape, S& logdet) {
    const int bins = shape.bins;
    const S bound = S(shape.bound);
    if (!(z >= -bound && z <= bound)) return z;
    constexpr int L = kLanes<S>;
    S weight[2 * kMaxBins + L], slope[kMaxBins + L + 1];
    S top_width = raw[0], top_height = raw[bins];
    for (int k = 1; k < bins; ++k) {
        top_width = raw[k] > top_width ? raw[k] : top_width;
        top_height = raw[bins + k] > top_height ? raw[bins + k] : top_height;
    }
    for (int k = 0; k < bins; ++k) {
        weight[k] = raw[k] - top_width;
        weight[bins + k] = raw[bins + k] - top_height;
    }
    for (int k = 0; k < 2 * bins; k += L) store(weight + k, exp_negative<S>(load(weight + k)));
    for (int k = 0; k < bins - 1; k += L)
        store(slope + 1 + k, softplus<S>(load(raw + 2 * bins + k)) + S(shape.min_derivative));
    slope[0] = slope[bins] = S(1);
    S width_sum = weight[0], height_sum = weight[bins];
    for (int k = 1; k < bins; ++k) {
        width_sum += weight[k];
        height_sum += weight[bins + k];
    }
    // The same steps in the same order as in locate(), so that the knots come out the same.
    const S per_width = 1 / width_sum, per_height = 1 / height_sum;
    const S width_scale = S(1 - shape.min_width * bins), height_scale = S(1 - shape.min_height * bins);
    const S twice = S(2 * shape.bound);
    S knot_x[kMaxBins + 1], knot_y[kMaxBins + 1];
    knot_x[0] = knot_y[0] = -bound;
    width_sum = height_sum = 0;
    int bin = 0;
    for (int k = 1; k < bins; ++k) {
        width_sum += weight[k - 1] * per_width * width_scale + S(shape.min_width);
        height_sum += weight[bins + k - 1] * per_height * height_scale + S(shape.min_height);
        knot_x[k] = width_sum * twice - bound;
        knot_y[k] = height_sum * twice - bound;
        bin += z >= knot_y[k];
    }
    knot_x[bins] = knot_y[bins] = bound;

    const S smallest = twice * std::numeric_limits<S>::epsilon();
    const S width = std::max(knot_x[bin + 1] - knot_x[bin], smallest);
    const S height = std::max(knot_y[bin + 1] - knot_y[bin], smallest);
    const S left = slope[bin], right = slope[bin + 1];
    const S delta = height / width, curvature = left + right - 2 * delta, eta = (z - knot_y[bin]) / height;
    const S a = delta - left + eta * curvature, b = left - eta * curvature, c = delta * eta;
    const S root = std::sqrt(std::max(b * b + 4 * a * c, std::numeric_limits<S>::min()));
    const S theta = b >= 0 ? 2 * c / (b + root) : (root - b) / (2 * a);
    const S rest = 1 - theta, spread = theta * rest, ratio = delta / (delta + curvature * spread);
    logdet -= std::log((right * theta * theta + 2 * delta * spread + left * rest * rest) * ratio * ratio);
    return knot_x[bin] + theta * width;
}

}  // namespace caloforge
