// All that follows the flow of CaloClouds: what it says about the layers, the points from the one-step network, and where they
// belong. caloforge.kernels.ops.clouds has the same in plain PyTorch. In double but for the network.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "allocation.hpp"
#include "point_network.hpp"

namespace caloforge {

// Settings and constants of a model. A null array is a correction that the model does not have: it costs nothing. They arrive as
// one row of numbers: the settings in the order below, then for each array the place of its first number in the row, or 0 if
// there is none; caloforge.kernels.ops.clouds has the same lists and says what each is.
struct CloudConstants {
    double incident, points_unit, room, least_factor, least_variance, least_total_variance, most_total, half_box;
    double level, scale, skip, out, core, least_energy;
    int layers, totals, roots, asinh, linear_energy, max_negative, told_calibrated;
    static constexpr int kSettings = 21;  // numbers and switches
    // Around the flow and of the points: mean, std, point_mean, point_scale. All others are corrections.
    const double *mean, *std, *point_mean, *point_scale, *depths, *most_points, *trend, *variance;
    const double *made_mean, *real_mean, *made_variance, *real_variance, *spread;
    const double *total_scale, *made_total, *real_total, *made_total_variance, *real_total_variance;
    const double *layer_points, *layer_energy, *energy, *occupancy, *polynomials;

    explicit CloudConstants(const double* row) {
        double* const numbers[] = {&incident, &points_unit, &room, &least_factor, &least_variance, &least_total_variance,
                                   &most_total, &half_box, &level, &scale, &skip, &out, &core, &least_energy};
        int* const switches[] = {&layers, &totals, &roots, &asinh, &linear_energy, &max_negative,
                                 &told_calibrated};
        const double** const arrays[] = {&mean, &std, &point_mean, &point_scale, &depths, &most_points, &trend, &variance,
                                         &made_mean, &real_mean, &made_variance, &real_variance, &spread, &total_scale,
                                         &made_total, &real_total, &made_total_variance, &real_total_variance, &layer_points,
                                         &layer_energy, &energy, &occupancy, &polynomials};
        const double* next = row;
        for (double* number : numbers) *number = *next++;
        for (int* number : switches) *number = int(*next++);
        for (const double** array : arrays) {
            *array = *next > 0 ? row + ptrdiff_t(*next) : nullptr;
            ++next;
        }
    }

    // Numbers that the flow gives: `totals` about the shower, then points of each layer, then energies of each layer.
    int features() const { return totals + 2 * layers; }
    int context() const { return totals ? 2 : 4; }
    bool allowed(double points, double incident_energy) const {
        return !most_points || points <= std::ceil(room * (most_points[0] + most_points[1] * incident_energy));
    }
};

// Whole numbers and energies of the layers of one shower; those of a shower that is not valid are zero.
class LayersOfShower {
public:
    explicit LayersOfShower(const CloudConstants& constants)
        : c_(constants), features_(constants.features()), moved_(constants.features()), counts_(constants.layers) {}

    // Fills the rows of one shower; returns how many points it gets, or -1 if that is more than `most`.
    template <class S>
    int64_t run(const S* raw, double incident_energy, const float* direction, double most, int64_t* counts, double* energies,
                double* gravity, S* context, uint8_t* valid) {
        const bool good = restore(raw, incident_energy, direction);
        const int first = c_.totals, layers = c_.layers;
        double sums[2] = {0, 0}, total = 0;
        for (int l = 0; l < layers; ++l) {
            sums[0] += counts_[l];
            sums[1] += features_[first + layers + l];
        }
        const double of_points = c_.total_scale ? total_factor(0, sums[0] / incident_energy) : 1;
        const double of_energy = c_.total_scale ? total_factor(1, sums[1] / incident_energy) : 1;
        for (int l = 0; l < layers; ++l) {
            if (c_.total_scale || c_.layer_points)
                counts_[l] = std::floor(counts_[l] * of_points * (c_.layer_points ? c_.layer_points[l] : 1) + 0.5);
            features_[first + layers + l] *= of_energy * (c_.layer_energy ? c_.layer_energy[l] : 1);
            total += counts_[l];
        }
        *valid = good && c_.allowed(total, incident_energy);
        gravity[0] = *valid && first ? features_[2] : 0;
        gravity[1] = *valid && first ? features_[3] : 0;
        total = 0;
        for (int l = 0; l < layers; ++l) {
            const bool kept = *valid && counts_[l] > 0 && features_[first + layers + l] > 0;
            counts_[l] = kept ? counts_[l] : 0;
            energies[l] = kept ? features_[first + layers + l] * (c_.energy ? *c_.energy : 1) : 0;
            total += counts_[l];
        }
        const double relative = incident_energy / c_.incident;
        if (first) {
            context[0] = S(2 * relative - 1);
            context[1] = S(2 * (total / c_.points_unit) - 1);
        } else {
            context[0] = S(relative);
            for (int k = 0; k < 3; ++k) context[1 + k] = S(direction[k]);
        }
        const int64_t made = calibrate(total, most, counts);
        if (first && c_.told_calibrated) context[1] = S(2 * (double(made) / c_.points_unit) - 1);
        return made;
    }

private:
    // What the flow means: numbers of points in counts_, energies of the layers behind them in features_. Whether it makes sense.
    template <class S>
    bool restore(const S* raw, double incident_energy, const float* direction) {
        const double e = incident_energy / c_.incident, x = direction[0], y = direction[1], slant = 1 / double(direction[2]);
        const double basis[] = {1, e, std::log(e), x, y, slant, e * slant};
        std::copy(basis, basis + 7, basis_);
        const int layers = c_.layers, first = c_.totals, all = c_.features();
        bool finite = true;
        if (c_.made_mean)
            for (int f = 0; f < all; ++f) {
                const double gain = std::sqrt(variance(c_.real_variance, f, all) / variance(c_.made_variance, f, all));
                moved_[f] = (double(raw[f]) - combined(c_.made_mean, f, all)) * gain;
            }
        for (int f = 0; f < all; ++f) {
            double output = double(raw[f]);
            if (c_.made_mean) {
                output = combined(c_.real_mean, f, all);
                if (c_.spread)
                    for (int g = 0; g < all; ++g) output += c_.spread[f * all + g] * moved_[g];
                else
                    output += moved_[f];
            }
            double deviation = c_.std ? c_.std[f] : 1;
            if (c_.variance) deviation *= std::sqrt(variance(c_.variance, f, all));
            const double centre = (c_.mean ? c_.mean[f] : 0) + (c_.trend ? combined(c_.trend, f, all) : 0);
            features_[f] = centre + double(S(output)) * deviation;
            finite &= std::isfinite(features_[f]);
        }
        int negative = 0;
        for (int f = first; f < all; ++f) {
            negative += f >= first + layers && features_[f] < 0;
            features_[f] = features_[f] < 0 ? 0 : features_[f];
            if (c_.roots) features_[f] *= features_[f];
        }
        if (!first) {
            for (int l = 0; l < layers; ++l) counts_[l] = std::floor(features_[l]);
            return finite && negative <= c_.max_negative;
        }
        // Shares of the layers. The noise of half a point per layer is taken off again by rounding down.
        double points = 0, energy = 0;
        for (int l = 0; l < layers; ++l) {
            points += features_[first + l];
            energy += features_[first + layers + l];
        }
        const double whole = (features_[0] < 0 ? 0 : features_[0]) + layers / 2.0, visible = features_[1] < 0 ? 0 : features_[1];
        for (int l = 0; l < layers; ++l) {
            counts_[l] = std::floor(whole * features_[first + l] / (points < 1e-300 ? 1e-300 : points));
            features_[first + layers + l] = visible * features_[first + layers + l] / (energy < 1e-300 ? 1e-300 : energy);
        }
        return finite && features_[0] >= 1 && features_[1] > 0 && negative <= c_.max_negative;
    }

    // Functions of the condition times coefficients in column f of `columns`.
    double combined(const double* coefficients, int f, int columns) const {
        double sum = 0;
        for (int k = 0; k < 7; ++k) sum += basis_[k] * coefficients[k * columns + f];
        return sum;
    }

    double variance(const double* coefficients, int f, int columns) const {
        return std::max(coefficients[f] + basis_[1] * coefficients[columns + f], c_.least_variance);
    }

    // By what to multiply layers whose sum, over the incident energy, is `total`; k = 0 for points, 1 for energy.
    double total_factor(int k, double total) const {
        const double relative = total / c_.total_scale[k], inverse = 1 / basis_[1];
        const double real = std::max(c_.real_total_variance[k] + inverse * c_.real_total_variance[2 + k], c_.least_total_variance);
        const double made = std::max(c_.made_total_variance[k] + inverse * c_.made_total_variance[2 + k], c_.least_total_variance);
        const double rest = relative - combined(c_.made_total, k, 2);
        const double wanted = combined(c_.real_total, k, 2) + rest * std::sqrt(real / made);
        return std::min(std::max(wanted / std::max(relative, 1e-300), 1 / c_.most_total), c_.most_total);
    }

    // Numbers of points after the calibration, at least one where the flow wants one.
    int64_t calibrate(double total, double most, int64_t* counts) const {
        double factor = 1;
        if (c_.polynomials) {  // with the largest factor for each layer in `occupancy`
            double wanted = total, largest = c_.occupancy[0];
            for (int k = 0; k < 2; ++k) {
                const double* p = c_.polynomials + 4 * k;
                wanted = ((p[0] * wanted + p[1]) * wanted + p[2]) * wanted + p[3];
            }
            for (int l = 1; l < c_.layers; ++l) largest = std::max(largest, c_.occupancy[l]);
            factor = std::min(std::max(wanted / (total < 1 ? 1 : total), c_.least_factor), largest);
        }
        double sum = 0;
        for (int l = 0; l < c_.layers; ++l) {
            const double of_layer = c_.polynomials || !c_.occupancy ? factor : c_.occupancy[l];
            const double wanted = std::floor(counts_[l] * of_layer + 0.5);
            const double made = counts_[l] > 0 ? (wanted < 1 ? 1 : wanted) : 0;
            sum += made;
            if (!(sum <= most)) return -1;  // also where a factor is not a number
            counts[l] = int64_t(made);
        }
        return int64_t(sum);
    }

    const CloudConstants& c_;
    std::vector<double> features_, moved_, counts_;
    double basis_[7];
};

// Between -limit and limit; a NaN stays.
inline Vec<double> within(Vec<double> v, double limit) {
    v = at_least(v, splat(-limit));
    return v > limit ? splat(limit) : v;
}

// Features of points, in columns `step` apart, to places (mm), depths (layers) and energies (MeV, above zero); `count` is
// rounded up to whole vectors.
inline void restore_points(const CloudConstants& c, int count, double* columns, ptrdiff_t step) {
    constexpr int L = kLanes<double>;
    for (int k = 0; k < 4; ++k) {
        double* column = columns + k * step;
        const double mean = c.point_mean ? c.point_mean[k] : 0, scale = c.point_scale ? c.point_scale[k] : 1;
        for (int r = 0; r < count; r += L) {
            Vec<double> v = splat(mean) + load(column + r) * scale;
            if (k < 2 && c.asinh) {
                v = within(v, 20.0);
                v = c.core * ((exp_negative<double>(v) - exp_negative<double>(-v)) * 0.5);
            }
            if (k == 3 && !c.linear_energy) v = exp_negative<double>(within(v, 30.0));
            if (k == 3 && c.linear_energy) v = at_least(v, splat(c.least_energy));
            store(column + r, v);
        }
        if (k >= 2) continue;
        // Reflected at the edges of the box as often as it takes.
        for (int r = 0; r < count; ++r) {
            if (!(std::fabs(column[r]) > c.half_box)) continue;
            double way = std::fmod(column[r] + c.half_box, 4 * c.half_box);
            if (way < 0) way += 4 * c.half_box;
            column[r] = way > 2 * c.half_box ? 3 * c.half_box - way : way - c.half_box;
        }
    }
}

// Showers from what the flow gave, `raw` (showers, features), and standard normal numbers z (rows, 4), of which those of shower
// n start at row starts[n]. Fills offsets (showers + 1), valid (showers) and points, packed, at most starts[showers] - starts[0].
// Returns how many points there are, or -1 if a shower needs more numbers than it has.
template <class S>
int64_t decode_clouds(const PackedPointNetwork<S>& network, const CloudConstants& c, int64_t showers, const S* raw,
                      const double* incident_energy, const float* direction, const S* z, const int64_t* starts,
                      int64_t* offsets, float* points, uint8_t* valid, int threads) {
    // Few showers at a time, whose points stay in the caches between the network and their allocation.
    const int64_t group = 8 * int64_t(std::max(threads, 1));
    const int layers = c.layers, context = c.context();
    const int64_t most = std::min(group, showers);
    std::vector<int64_t> counts(most * layers);
    std::vector<double> energies(most * layers), gravity(2 * most), columns;
    std::vector<S> contexts(most * context);
    LayersOfShower of_shower(c);
    const S level = S(c.level);
    offsets[0] = 0;
    for (int64_t begin = 0; begin < showers; begin += group) {
        const int64_t some = std::min(group, showers - begin);
        for (int64_t n = 0; n < some; ++n) {
            const int64_t row = begin + n;
            const int64_t made = of_shower.run(raw + row * c.features(), incident_energy[row], direction + 3 * row,
                                               double(starts[row + 1] - starts[row]), counts.data() + n * layers,
                                               energies.data() + n * layers, gravity.data() + 2 * n,
                                               contexts.data() + n * context, valid + row);
            if (made < 0) return -1;
            offsets[row + 1] = offsets[row] + made;
        }
        const int64_t *own = offsets + begin, all = own[some] - own[0];
        columns.resize(std::max<size_t>(columns.size(), 4 * all));
        over_points(network, some, own, &level, 0, contexts.data(), threads, [&](PointTile<S>& tile, const Piece& piece, const S* mod) {
            constexpr int step = PointTile<S>::most_points;
            double made[4 * step];
            const int64_t row = starts[begin + piece.shower] + piece.first - own[piece.shower];
            tile.generate(piece.count, z + 4 * row, mod, S(c.scale), c.skip, c.out, made, step);
            restore_points(c, piece.count, made, step);
            for (int k = 0; k < 4; ++k)
                std::copy(made + k * step, made + k * step + piece.count, columns.data() + k * all + piece.first - own[0]);
        });
        parallel(some, 1, threads, [&](int64_t n, int64_t end) {
            Allocator allocator(layers);
            std::vector<double> shift(2 * layers);
            for (; n < end; ++n) {
                const float* along = direction + 3 * (begin + n);
                for (int k = 0; k < 2; ++k)
                    for (int l = 0; l < layers; ++l)
                        shift[2 * l + k] = c.depths ? double(float(c.depths[l] * (double(along[k]) / double(along[2])))) : 0;
                const double* column = columns.data() + own[n] - own[0];
                allocator.run({layers, counts.data() + n * layers, energies.data() + n * layers, column, column + all, 1,
                               column + 2 * all, column + 3 * all, c.totals ? gravity.data() + 2 * n : nullptr, shift.data(),
                               points + 4 * own[n]});
            }
        });
    }
    return offsets[showers];
}

}  // namespace caloforge
