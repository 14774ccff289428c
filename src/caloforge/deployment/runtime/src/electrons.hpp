// Parametrised electron showers (hep-ex/0001020): caloforge.parts.electron_profile and electron_showers in C++, a shower at a time.
// Depths are in radiation lengths, radii in Moliere radii.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "failure.hpp"
#include "json.hpp"
#include "special.hpp"
#include "tensors.hpp"

namespace caloforge::runtime {

// Steps of a shower through a calorimeter, each inside one layer.
struct Steps {
    Steps(const Tensors& tensors, int64_t layers)
        : edge(tensors.doubles("steps.edge")), weight(tensors.doubles("steps.weight")), z(tensors.doubles("steps.z", size())),
          first(tensors.wholes("steps.first", size())), last(tensors.wholes("steps.last", size())),
          layer(tensors.wholes("steps.layer", size())) {
        const int64_t edges = int64_t(edge.size());
        const auto inside = [](const std::vector<int64_t>& values, int64_t limit) {
            return std::all_of(values.begin(), values.end(), [limit](int64_t value) { return value >= 0 && value < limit; });
        };
        need(size() > 0 && inside(first, edges) && inside(last, edges) && inside(layer, layers), "the steps are inconsistent");
        for (double w : weight) mean_weight += w / double(size());
    }
    int64_t size() const { return int64_t(weight.size()); }

    std::vector<double> edge, weight, z;       // weight: share of the energy that is seen; z: middle, mm
    std::vector<int64_t> first, last, layer;  // numbers of the edges at which a step begins and ends
    double mean_weight = 0;
};

// Two components of the radial profile.
struct Radial {
    double share, core, tail;
};

class ElectronFormulas {
public:
    const double critical;  // energy, MeV

    explicit ElectronFormulas(const Json& settings)
        : critical(settings["critical_energy"].number()), z_(settings["matter_z"].number()), sampled_(!settings["sampling"].is_null()) {
        for (size_t k = 0; k < 5; ++k) {
            const std::vector<double> pair = settings["longitudinal"].list().at(k).numbers(2);
            numbers_[k] = {pair[0], pair[1]};
        }
        if (sampled_) {
            frequency_ = settings["sampling"]["frequency"].number();
            loss_ = 1 - settings["sampling"]["e_over_mip"].number();
            stochastic_ = settings["sampling"]["stochastic"].number();
        }
        need(z_ > 0 && critical > 0 && (!sampled_ || frequency_ > 0), "a constant of the material is out of range");
    }

    // Depth of the maximum, alpha, and the typical alpha, from two standard normal numbers.
    struct Profile {
        double peak, alpha, typical;
    };
    Profile draw(double log_y, double first, double second) const {
        const double mean = std::max(log_y, 1.3), wide = std::max(log_y, 4.0);
        const double peak = std::max(at(0, mean), 0.05), alpha = std::max(at(1, mean), kLeastAlpha);
        const double correlation = between(at(4, wide), -0.99, 0.99);
        const double plus = std::sqrt((1 + correlation) / 2), minus = std::sqrt((1 - correlation) / 2);
        return {peak * std::exp(1 / at(2, wide) * (plus * first + minus * second)),
                std::max(alpha * std::exp(1 / at(3, wide) * (plus * first - minus * second)), kLeastAlpha), alpha};
    }
    // The same of the depth of spots.
    Profile spots(const Profile& p) const {
        if (sampled_) return {p.peak * (0.813 + 0.0019 * z_), p.alpha * (0.844 + 0.0026 * z_), 0};
        return {p.peak * (0.698 + 0.00212 * z_), p.alpha * (0.639 + 0.00334 * z_), 0};
    }
    double spot_number(double gev) const {
        if (!sampled_ || stochastic_ <= 0) return 93 * std::log(z_) * std::pow(gev, 0.876);
        return 10.3 / stochastic_ * std::pow(gev, 0.959);
    }

    // `depth` is that over the depth of the maximum of the mean shower.
    Radial radial(double log_gev, double depth) const {
        const double tau = between(depth, 0, 10);
        double core = 0.0251 + 0.00319 * log_gev + (0.1162 - 0.000381 * z_) * tau;
        const double k1 = 0.659 - 0.00309 * z_, k2 = 0.645, k3 = -2.59, k4 = 0.3585 + 0.0421 * log_gev;
        double tail = k1 * (std::exp(k3 * (tau - k2)) + std::exp(k4 * (tau - k2)));
        const double x = (0.401 + 0.00187 * z_ - tau) / std::max(1.313 - 0.0686 * log_gev, 0.3);
        double share = (2.632 - 0.00094 * z_) * std::exp(x - std::exp(x));
        if (sampled_) {
            core += -0.0203 * loss_ + 0.0397 / frequency_ * std::exp(-tau);
            tail += -0.14 * loss_ - 0.495 / frequency_ * std::exp(-tau);
            share += loss_ * (0.348 - 0.642 / frequency_ * std::exp(-(tau - 1) * (tau - 1)));
        }
        core = std::max(core, 0.005);
        return {between(share, 0, 1), core, std::max(tail, core)};
    }

private:
    static constexpr double kLeastAlpha = 1.05;
    double at(size_t k, double x) const { return numbers_[k][0] + numbers_[k][1] * x; }

    const double z_;  // effective atomic number
    std::array<std::array<double, 2>, 5> numbers_{};
    const bool sampled_;
    double frequency_ = 1, loss_ = 0, stochastic_ = 0;
};

// Two electrons, of which the second may have no energy, in all steps, one behind the other.
struct Electrons {
    std::vector<double> deposited;  // MeV
    std::vector<double> spots;      // how many there are, but for a factor
    std::vector<Radial> radial;

    // `depth` at which they begin, and the share of the first; `normals` are two for each; `slope` is 1 over the z component.
    Electrons(const Steps& steps, const ElectronFormulas& formulas, double incident, double depth, double share, const float* normals,
              double slope, bool with_spots)
        : deposited(2 * size_t(steps.size())), spots(deposited.size()), radial(deposited.size()) {
        const size_t S = size_t(steps.size());
        std::vector<double> before(steps.edge.size());
        for (size_t e = 0; e < 2; ++e) {
            const double energy = incident * (e ? 1 - share : share), gev = energy / 1000;
            if (!(energy > 0)) continue;
            const double log_y = std::log(std::max(energy / formulas.critical, 1.0));
            const auto profile = formulas.draw(log_y, double(normals[2 * e]), double(normals[2 * e + 1]));
            const auto in_steps = [&](double peak, double alpha, double factor, std::vector<double>& to) {
                for (size_t k = 0; k < before.size(); ++k)
                    before[k] = gamma_share(alpha, (alpha - 1) / peak * (steps.edge[k] * slope - depth));
                for (size_t s = 0; s < S; ++s) to[e * S + s] = factor * (before[size_t(steps.last[s])] - before[size_t(steps.first[s])]);
            };
            in_steps(profile.peak, profile.alpha, energy, deposited);
            if (with_spots) {
                const auto own = formulas.spots(profile);
                in_steps(own.peak, std::max(own.alpha, 1.01), std::pow(gev, 0.876), spots);
            }
            const double mean = profile.alpha * profile.peak / (profile.alpha - 1), log_gev = std::log(std::max(gev, 0.05));
            for (size_t s = 0; s < S; ++s) {
                const double edges = (steps.edge[size_t(steps.first[s])] + steps.edge[size_t(steps.last[s])]) / 2;
                const double middle = std::max(edges * slope - depth, 0.0);
                radial[e * S + s] = formulas.radial(log_gev, middle / mean * (profile.typical / (profile.typical - 1)));
            }
        }
    }
};

}  // namespace caloforge::runtime
