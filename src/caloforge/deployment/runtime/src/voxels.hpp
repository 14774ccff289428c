// From what the flows of a voxel model give back to deposits: caloforge.representation in C++, shower by shower, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "failure.hpp"
#include "json.hpp"

namespace caloforge::runtime {

inline double unit_interval(double value) { return value < 0 ? 0 : value > 1 ? 1 : value; }  // a NaN stays

// The inverse of the logit with a margin (arXiv:2106.05285, equations 4.2 and 4.3), not clamped.
inline double unlogit(double y, double alpha) { return (1 / (1 + std::exp(-y)) - alpha) / (1 - 2 * alpha); }

// Energies of the layers from logits of fractions of what a shower can deposit.
class LayerEnergies {
public:
    explicit LayerEnergies(const Json& settings)
        : recursive_(settings["recursive"].boolean()), scale_(settings["scale"].number()), extra_(settings["extra"].number()),
          alpha_(settings["alpha"].number()), fixed_(settings["fixed"].number()) {}

    void restore(int layers, const float* logits, double incident, double* energies) const {
        const double available = fixed_ > 0 ? fixed_ : incident * scale_ + extra_;
        for (int l = 0; l < layers; ++l) energies[l] = unit_interval(unlogit(double(logits[l]), alpha_));
        if (recursive_) {
            double left = energies[0] * available;  // of this layer and all behind it
            for (int l = 0; l + 1 < layers; ++l) {
                const double share = energies[l + 1];
                energies[l] = left * share;
                left *= 1 - share;
            }
            energies[layers - 1] = left;
            return;
        }
        double sum = 0;
        for (int l = 0; l < layers; ++l) sum += energies[l] *= available;
        if (fixed_ > 0) return;  // fractions of a fixed energy bound each layer by itself
        const double factor = available / std::max(sum, 1e-16);
        if (factor < 1)
            for (int l = 0; l < layers; ++l) energies[l] *= factor;
    }

private:
    bool recursive_;
    double scale_, extra_, alpha_, fixed_;
};

// Logarithms of energies as conditions of a flow.
struct LogEnergy {
    double reference, offset, factor;
    explicit LogEnergy(const Json& settings)
        : reference(settings["reference"].number()), offset(settings["offset"].number()), factor(settings["factor"].number()) {
        need(reference > 0 && offset >= 0 && factor > 0, "a reference energy is out of range");
    }
    double operator()(double energy) const { return factor * std::log10((energy + offset) / reference); }
};

// A threshold that keeps the energy of the layer; see caloforge.representation.cuts.
class LayerCut {
public:
    // Estimates of the deposits of a layer to deposits, in place. Kept voxels may fall short of the threshold by `margin`.
    void apply(int size, double* values, double energy, double least, double margin) {
        order_.clear();
        int brightest = 0;
        for (int i = 0; i < size; ++i) {
            if (values[i] >= least - margin) values[i] = least + std::fabs(values[i] - least);
            if (values[i] >= least) order_.push_back(i);
            if (values[i] > values[brightest]) brightest = i;
        }
        if (order_.empty()) order_.push_back(brightest);
        const double affordable = std::max(std::floor(energy / least), 0.0);
        const int count = int(std::min(double(order_.size()), affordable));
        std::sort(order_.begin(), order_.end(), [&](int a, int b) { return values[a] > values[b] || (values[a] == values[b] && a < b); });
        kept_.resize(size_t(count));
        // With the faintest kept voxels on the threshold, the j brightest share what is left; the largest j is right for which none of
        // them comes to lie below it.
        double sum = 0, factor = 0;
        int free = 0;
        for (int k = 0; k < count; ++k) {
            const double value = std::max(values[order_[size_t(k)]], least);
            kept_[size_t(k)] = value;
            sum += value;
            const double found = (energy - least * (count - k - 1)) / std::max(sum, std::numeric_limits<double>::min());
            if (k == 0) factor = found;
            if (found * value >= least) {
                ++free;
                factor = found;
            }
        }
        std::fill(values, values + size, 0.0);
        for (int k = 0; k < count; ++k) values[order_[size_t(k)]] = k < free ? kept_[size_t(k)] * factor : least;
    }

private:
    std::vector<double> kept_;
    std::vector<int> order_;
};

// Shares of the voxels and noisy energies of the layers to deposits.
class SharesToDeposits {
public:
    SharesToDeposits(const Json& settings, std::vector<int64_t> sizes)
        : sizes_(std::move(sizes)), alpha_(settings["alpha"].number()), noise_(settings["noise"].number()),
          energy_noise_(settings["energy_noise"].number()), cut_(settings["cut"].number()), least_(settings["least"].number()),
          share_noise_(settings["share_noise"].number()), shift_(settings["energy_shift"].numbers(sizes_.size())) {
        const std::string& back = settings["postprocessing"].text();
        need(back == "exact" || back == "renormalise" || back == "multiply", "deposits are made in an unknown way");
        way_ = back == "exact" ? Way::exact : back == "renormalise" ? Way::renormalise : Way::multiply;
        dropped_.assign(sizes_.size(), -1);
        const auto& dropped = settings["dropped"].list();
        need(dropped.empty() || dropped.size() == sizes_.size(), "not as many voxels are left out as there are layers");
        for (size_t l = 0; l < dropped.size(); ++l) dropped_[l] = int(dropped[l].whole(0, sizes_[l] - 1));
        need(alpha_ > 0 && alpha_ < 0.5 && least_ > 0 && noise_ >= 0 && energy_noise_ >= 0, "a setting is out of range");
    }

    // Number of logits: voxels of layers that have several, less those that are left out.
    int64_t features() const {
        int64_t all = 0;
        for (size_t l = 0; l < sizes_.size(); ++l) all += sizes_[l] > 1 ? sizes_[l] - (dropped_[l] >= 0) : 0;
        return all;
    }

    // Voxels of the first layer.
    int64_t size() const { return sizes_[0]; }

    // Work memory; `values` are the deposits of the last layer that was made.
    struct Room {
        std::vector<double> values;
        LayerCut cut;
    };

    // Whether all came out finite; else `deposits` is not to be used.
    bool restore(const float* logits, const double* energies, float* deposits, Room& room) const {
        bool finite = true;
        for (size_t l = 0; l < sizes_.size(); ++l) {
            const int size = int(sizes_[l]);
            room.values.resize(size_t(size));
            double* const values = room.values.data();
            const int missing = size > 1 ? dropped_[l] : -1;
            double taken = 0;
            for (int i = 0; i < size; ++i) {
                if (i == missing) continue;
                const double share = size == 1 ? 1 : unlogit(double(*logits++), alpha_);
                taken += values[i] = way_ == Way::renormalise ? share : unit_interval(share);
                finite &= std::isfinite(share);
            }
            if (missing >= 0) values[missing] = way_ == Way::renormalise ? 1 - taken : std::max(1 - taken, 0.0);
            finite &= std::isfinite(energies[l]);
            if (!finite) return false;
            layer(size, values, energies[l], shift_[l], room);
            for (int i = 0; i < size; ++i) finite &= std::isfinite(*deposits++ = float(values[i]));
        }
        return finite;
    }

private:
    enum class Way { exact, renormalise, multiply };

    // Shares of a layer to its deposits, in place.
    void layer(int size, double* values, double energy, double shift, Room& room) const {
        if (way_ == Way::exact) {
            // What is as far below the threshold as noise alone can bring it belongs as far above it.
            double clean = energy - shift;
            clean = clean >= least_ - energy_noise_ / 2 ? least_ + std::fabs(clean - least_) : std::max(clean, 0.0);
            const double total = clean + size * (noise_ / 2);
            if (share_noise_ > 0)
                for (int i = 0; i < size; ++i) values[i] = std::max((1 + share_noise_) * values[i] - share_noise_ / 2, 0.0);
            for (int i = 0; i < size; ++i) values[i] = values[i] * total - noise_ / 2;
            room.cut.apply(size, values, clean, least_, noise_ / 2);
            return;
        }
        double total = energy;
        if (way_ == Way::renormalise) {
            double sum = 0;
            for (int i = 0; i < size; ++i) sum += std::fabs(values[i]);
            total = energy / sum + 1e-16;
        } else if (energy < cut_) {
            total = 0;
        }
        for (int i = 0; i < size; ++i) {
            values[i] *= total;
            values[i] = values[i] >= cut_ ? std::max(values[i], 0.0) : 0;
        }
    }

    std::vector<int64_t> sizes_;
    double alpha_, noise_, energy_noise_, cut_, least_, share_noise_;
    std::vector<double> shift_;
    std::vector<int> dropped_;  // the voxel of each layer that follows from the others, or -1
    Way way_;
};

}  // namespace caloforge::runtime
