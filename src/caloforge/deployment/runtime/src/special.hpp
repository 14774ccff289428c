// Functions of probability, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace caloforge::runtime {

// A NaN becomes the lower end: what is looked up with it stays inside its table.
inline double between(double value, double low, double high) { return value > low ? (value < high ? value : high) : low; }

// Logarithm of the Gamma function of x > 0: Stirling's series, moved to where it is exact. The standard library's own writes to a
// global variable.
inline double log_gamma(double x) {
    double product = 1;
    for (; x < 12; x += 1) product *= x;
    const double r = 1 / (x * x);
    const double series = (1.0 / 12 + r * (-1.0 / 360 + r * (1.0 / 1260 + r * (-1.0 / 1680 + r * (1.0 / 1188))))) / x;
    return (x - 0.5) * std::log(x) - x + 0.91893853320467274178 + series - std::log(product);
}

// The regularised lower incomplete gamma function P(a, x) for a > 0; 0 for x <= 0.
inline double gamma_share(double a, double x) {
    if (std::isnan(a) || std::isnan(x)) return std::numeric_limits<double>::quiet_NaN();
    if (!(x > 0)) return 0;
    if (std::isinf(x)) return 1;
    constexpr int kTerms = 100000;
    constexpr double kSmall = 1e-17;
    const double front = std::exp(a * std::log(x) - x - log_gamma(a));
    if (x < a + 1) {
        double term = 1 / a, sum = term;
        for (int n = 1; n < kTerms && term > kSmall * sum; ++n) sum += term *= x / (a + n);
        return std::min(front * sum, 1.0);
    }
    // Lentz's way of evaluating the continued fraction of Q = 1 - P.
    double b = x + 1 - a, c = 1e300, d = 1 / b, fraction = d;
    for (int n = 1; n < kTerms; ++n) {
        const double numerator = -n * (n - a);
        b += 2;
        d = numerator * d + b;
        c = b + numerator / c;
        if (std::fabs(d) < 1e-300) d = 1e-300;
        if (std::fabs(c) < 1e-300) c = 1e-300;
        d = 1 / d;
        const double factor = c * d;
        fraction *= factor;
        if (std::fabs(factor - 1) < 1e-16) break;
    }
    return 1 - front * fraction;
}

// The standard normal distribution function, and its inverse for 0 < p < 1.
inline double normal_share(double x) { return 0.5 * std::erfc(-0.70710678118654752440 * x); }

inline double normal_quantile(double p) {
    const bool upper = p > 0.5;
    const double q = upper ? 1 - p : p;
    // Abramowitz and Stegun, 26.2.23, good to 4.5e-4; then steps of Halley, each of which makes three times as many digits right.
    const double t = std::sqrt(-2 * std::log(q));
    double x = -(t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
    for (int k = 0; k < 2; ++k) {
        const double off = (normal_share(x) - q) / (0.39894228040143267794 * std::exp(-0.5 * x * x));
        x -= off / (1 + 0.5 * x * off);
    }
    return upper ? -x : x;
}

// Logarithm of a Gamma(shape, 1) number from a standard normal and a uniform one; see caloforge.parts.gamma_numbers.
inline double log_gamma_number(double shape, double normal, double uniform) {
    const double above = shape + 1, ninth = 1 / (9 * above);
    const double cube = std::max(1 - ninth + std::sqrt(ninth) * normal, 1e-9);
    return std::log(above) + 3 * std::log(cube) + std::log(1 - uniform) / std::max(shape, 1e-9);
}

}  // namespace caloforge::runtime
