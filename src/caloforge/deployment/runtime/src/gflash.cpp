// GFlash (hep-ex/0001020): electrons, positrons and photons without training; caloforge.zoo.gflash in C++.
#include <cmath>

#include "electrons.hpp"
#include "model.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

constexpr double kConversion = 9.0 / 7.0, kGeV = 1000, kTwoPi = 6.283185307179586476925;
constexpr int64_t kRadii = 108;  // of the tables of shares of cells

// Places of the random numbers of a shower among its latents, in floats.
struct Places {
    int64_t pair = 5, layers, sampling, cells, chance, spots;
    Places(int64_t L, int64_t V) {
        layers = pair + 4;
        sampling = layers + L;
        cells = spots = sampling + 2 * L;
        chance = cells + V;
    }
};

// Edges of the cells of one layer.
struct Grid {
    bool polar;
    std::vector<double> outer, inner;

    // The cell at a place; -1 beside all.
    int64_t cell(double x, double y) const {
        if (!polar) {
            const int64_t i = bin(outer, x), j = bin(inner, y);
            return i < 0 || j < 0 ? -1 : i * int64_t(inner.size() - 1) + j;
        }
        const int64_t sectors = int64_t(outer.size()) - 1, r = bin(inner, std::hypot(x, y));
        if (r < 0) return -1;
        const double alpha = (std::atan2(y, x) + kTwoPi / 2) * (double(sectors) / kTwoPi);
        return int64_t(alpha) % sectors * int64_t(inner.size() - 1) + r;
    }

private:
    static int64_t bin(const std::vector<double>& edges, double value) {
        const int64_t number = std::upper_bound(edges.begin(), edges.end(), value) - edges.begin() - 1;
        return number < int64_t(edges.size()) - 1 ? number : -1;
    }
};

struct Spot {
    double x, y, energy;
    int64_t layer;
};

class GFlash {
public:
    GFlash(const Json& settings, const Tensors& tensors, int layers, bool photon)
        : L_(layers), photon_(photon), formulas_(settings), steps_(tensors, layers), response_(settings["response"].numbers(4)),
          radius_(settings["radius"].number()), moliere_(settings["moliere_radius"].number()),
          most_(settings["spots"].whole(1, 1000000000)) {}

    int64_t layers() const { return L_; }
    const Steps& steps() const { return steps_; }
    double critical() const { return formulas_.critical; }
    double radius() const { return radius_; }

    int64_t spot_count(double energy) const {
        return int64_t(between(std::nearbyint(formulas_.spot_number(energy / kGeV)), 1, double(most_)));
    }

    // The numbers that all showers have.
    void latents(uint64_t seed, const Shower& shower, const Places& at, float* out) const {
        Stream(seed, "shape").normals(shower.number, shower.attempt, 5, out);
        Uniforms(Stream(seed, "pair"), shower.number, shower.attempt).fill(2, out + at.pair);
        if (!photon_) {  // an electron starts at once, and alone
            const double alone[] = {0, 1};
            std::memcpy(out + at.pair, alone, sizeof alone);
        }
        Stream(seed, "layers").normals(shower.number, shower.attempt, L_, out + at.layers);
        Uniforms(Stream(seed, "sampling"), shower.number, shower.attempt).fill(L_, out + at.sampling);
    }

    Electrons electrons(const Shower& shower, const float* latents, const Places& at, bool with_spots) const {
        const double depth = -kConversion * std::log1p(-uniform_at(latents + at.pair, 0)), share = uniform_at(latents + at.pair, 1);
        const double slope = 1 / std::max(double(shower.direction[2]), 1e-3);
        return Electrons(steps_, formulas_, shower.energy, depth, share, latents, slope, with_spots);
    }

    // Energy that is seen of each layer.
    std::vector<double> seen(const Electrons& found, const Shower& shower, const float* latents, const Places& at) const {
        const size_t L = size_t(L_), S = size_t(steps_.size());
        std::vector<double> lost(L), out(L);
        for (size_t s = 0; s < S; ++s) {
            const double energy = found.deposited[s] + found.deposited[S + s];
            lost[size_t(steps_.layer[s])] += energy;
            out[size_t(steps_.layer[s])] += energy * steps_.weight[s];
        }
        const double mean = response_[0] + response_[1] * std::log(shower.energy / kGeV);
        const double whole = std::max(mean + response_[3] * double(latents[4]), 0.0);
        for (size_t l = 0; l < L; ++l) {
            double factor = whole;
            if (response_[2] > 0) {
                const double shape = lost[l] / kGeV / (response_[2] * response_[2]);
                const double normal = double(latents[size_t(at.layers) + l]), uniform = uniform_at(latents + at.sampling, int64_t(l));
                const double draw = log_gamma_number(shape, normal, uniform);
                factor *= shape > 0 ? std::exp(draw - std::log(std::max(shape, 1e-12))) : 0;
            }
            out[l] *= factor;
        }
        return out;
    }

    // Spots of equal energy within a step.
    std::vector<Spot> spots(const Shower& shower, const float* latents, const Places& at) const {
        const Electrons found = electrons(shower, latents, at, true);
        const std::vector<double> layers = seen(found, shower, latents, at);
        const size_t L = size_t(L_), S = size_t(steps_.size());
        std::vector<double> rows(2 * S), sums(L);
        double sum = 0;
        for (size_t k = 0; k < 2 * S; ++k) rows[k] = sum += found.spots[k];
        for (double& row : rows) row /= std::max(sum, 1e-300);
        const double nx = double(shower.direction[0]), ny = double(shower.direction[1]), nz = double(shower.direction[2]);
        const double flat = std::sqrt(nx * nx + ny * ny), cosine = flat > 1e-12 ? nx / flat : 1, sine = flat > 1e-12 ? ny / flat : 0;
        std::vector<Spot> out(size_t(spot_count(shower.energy)));
        for (size_t k = 0; k < out.size(); ++k) {
            const float* const numbers = latents + at.spots + 6 * int64_t(k);
            const double which = uniform_at(numbers, 0), chance = uniform_at(numbers, 1), angle = kTwoPi * uniform_at(numbers, 2);
            const auto row = std::upper_bound(rows.begin(), rows.end(), which);
            const size_t place = std::min(size_t(row - rows.begin()), 2 * S - 1), s = place % S;
            Spot& spot = out[k];
            spot.layer = steps_.layer[s];
            spot.energy = found.deposited[place] * steps_.weight[s] / std::max(found.spots[place], 1e-300);
            sums[size_t(spot.layer)] += spot.energy;
            // One uniform number for the component and the radius.
            const Radial& radial = found.radial[place];
            const bool inner = chance < radial.share;
            const double within = inner ? chance / std::max(radial.share, 1e-12)
                                        : (chance - radial.share) / std::max(1 - radial.share, 1e-12);
            const double own = between(within, 0, 1 - 1e-9);
            const double radius = moliere_ * radius_ * ((inner ? radial.core : radial.tail) * std::sqrt(own / (1 - own)));
            // Off the axis across the direction of flight, and from there along it onto the plane of the step.
            const double u = radius * std::cos(angle), v = radius * std::sin(angle), path = (steps_.z[s] + u * flat) / nz;
            spot.x = u * nz * cosine - v * sine + path * nx;
            spot.y = u * nz * sine + v * cosine + path * ny;
        }
        // Every layer gets its energy; that of a layer without a spot goes to the others.
        double reached = 0, all = 0;
        for (size_t l = 0; l < L; ++l) all += layers[l], reached += sums[l] > 0 ? layers[l] : 0;
        const double factor = all / std::max(reached, 1e-300);
        for (Spot& spot : out) {
            const size_t l = size_t(spot.layer);
            spot.energy = spot.energy * (layers[l] / std::max(sums[l], 1e-300)) * factor;
        }
        return out;
    }

    void spot_latents(uint64_t seed, const Shower& shower, const Places& at, float* out) const {
        Uniforms(Stream(seed, "spots"), shower.number, shower.attempt).fill(3 * spot_count(shower.energy), out + at.spots);
    }

private:
    const int64_t L_;
    const bool photon_;
    const ElectronFormulas formulas_;
    const Steps steps_;
    const std::vector<double> response_;
    const double radius_, moliere_;  // factor on radii; Moliere radius, mm
    const int64_t most_;             // spots
};

class VoxelGFlash : public VoxelModel {
public:
    VoxelGFlash(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          shower_(settings_, *tensors_, info.layers, info.particle == 22), at_(info.layers, info.voxels),
          cells_(settings_["cells"].boolean()), least_(settings_["least"].number()), core_(tensors_->doubles("core_portions", info.layers)),
          tail_(tensors_->doubles("tail_portions", info.layers)) {
        const std::vector<double> outer = tensors_->doubles("edges.outer"), inner = tensors_->doubles("edges.inner");
        auto from_outer = outer.begin(), from_inner = inner.begin();
        int64_t start = 0;
        const auto& sizes = settings_["grids"].list();
        need(sizes.size() == layer_sizes.size(), "there are not as many grids as layers");
        for (size_t l = 0; l < sizes.size(); ++l) {
            const std::vector<double> shape = sizes[l].numbers(2);
            need(shape[0] >= 1 && shape[1] >= 1 && shape[0] * shape[1] == double(layer_sizes[l]), "a grid does not fit its layer");
            const ptrdiff_t some_outer = ptrdiff_t(shape[0]) + 1, some_inner = ptrdiff_t(shape[1]) + 1;
            need(some_outer <= outer.end() - from_outer && some_inner <= inner.end() - from_inner, "edges of cells are missing");
            grids_.push_back({bool(polar[l]), {from_outer, from_outer + some_outer}, {from_inner, from_inner + some_inner}});
            from_outer += some_outer;
            from_inner += some_inner;
            first_.push_back(start);
            start += layer_sizes[l];
        }
        if (!cells_) return;
        // One table for each run of layers with the same cells.
        const std::vector<double> radii = settings_["radii"].numbers(2);
        low_ = radii[0], step_ = radii[1];
        need(step_ > 0, "the tables of cells are out of range");
        tables_ = tensors_->in_place("tables", -1, tables_room_);
        int64_t used = 0;
        for (const Json& layer : settings_["tables"].list()) {
            table_.push_back(layer.whole(0, int64_t(1) << 40));
            need(table_.size() <= layer_sizes.size(), "there are more tables than layers");
            used = std::max(used, table_.back() + kRadii * layer_sizes[table_.size() - 1]);
        }
        need(table_.size() == layer_sizes.size() && used <= tensors_->count("tables"), "a table of cells is missing");
    }

    int64_t latent_size(const Shower& shower) const override {
        return in_cells(shower) ? at_.chance + 2 * info.voxels : at_.spots + 6 * shower_.spot_count(shower.energy);
    }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        shower_.latents(seed, shower, at_, out);
        if (!in_cells(shower)) {
            shower_.spot_latents(seed, shower, at_, out);
            return;
        }
        Stream(seed, "cells").normals(shower.number, shower.attempt, info.voxels, out + at_.cells);
        Uniforms(Stream(seed, "chance"), shower.number, shower.attempt).fill(info.voxels, out + at_.chance);
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const size_t V = size_t(info.voxels);
        std::vector<double> values(V);
        for (int64_t r = 0; r < count; ++r) {
            if (in_cells(showers[r])) {
                fill_cells(showers[r], latents, values);
            } else {
                std::fill(values.begin(), values.end(), 0.0);
                for (const Spot& spot : shower_.spots(showers[r], latents, at_)) {
                    const int64_t cell = grids_[size_t(spot.layer)].cell(spot.x, spot.y);
                    if (cell >= 0) values[size_t(first_[size_t(spot.layer)] + cell)] += spot.energy;
                }
            }
            for (size_t i = 0; i < V; ++i) deposits[i] = values[i] < least_ ? 0.0f : float(values[i]);
            valid[r] = 1;
            deposits += V;
            latents += latent_size(showers[r]);
        }
    }

private:
    // Showers along the axis: every cell gets its share of the profile, and fluctuates by itself.
    bool in_cells(const Shower& shower) const {
        return cells_ && (!info.any_direction || (shower.direction[0] == 0 && shower.direction[1] == 0));
    }

    void fill_cells(const Shower& shower, const float* latents, std::vector<double>& values) const {
        const size_t L = size_t(info.layers), S = size_t(shower_.steps().size());
        const Electrons found = shower_.electrons(shower, latents, at_, false);
        const std::vector<double> layers = shower_.seen(found, shower, latents, at_);
        std::vector<double> weights(2 * L * kRadii), expected(L), core, tail;
        double *const of_core = weights.data(), *const of_tail = of_core + L * kRadii;
        for (size_t k = 0; k < 2 * S; ++k) {
            const size_t l = size_t(shower_.steps().layer[k % S]);
            const double lost = found.deposited[k] * shower_.steps().weight[k % S];
            if (lost == 0) continue;
            expected[l] += lost;
            add(of_core + l * kRadii, found.radial[k].core * shower_.radius(), lost * found.radial[k].share);
            add(of_tail + l * kRadii, found.radial[k].tail * shower_.radius(), lost * (1 - found.radial[k].share));
        }
        const double unit = shower_.critical() * shower_.steps().mean_weight;
        size_t first = 0;
        for (size_t l = 0; l < L; ++l) {
            const size_t size = size_t(layer_sizes[l]);
            spread(of_core + l * kRadii, l, core);
            spread(of_tail + l * kRadii, l, tail);
            double inside = 0, brightest = -INFINITY, sum = 0;
            for (size_t i = 0; i < size; ++i) {
                const double mean = core[i] + tail[i];
                inside += mean;
                // Energy comes in portions, in the core of the shower in larger ones; so many of them make the variance right.
                const double portion = unit * (core_[l] * core[i] + tail_[l] * tail[i]) / std::max(mean, 1e-30);
                const double shape = std::max(mean / std::max(portion, 1e-30), 1e-6);
                const double normal = double(latents[size_t(at_.cells) + first + i]);
                const double uniform = uniform_at(latents + at_.chance, int64_t(first + i));
                const double log = log_gamma_number(shape, normal, uniform) + std::log(std::max(portion, 1e-30));
                values[first + i] = log;
                brightest = std::max(brightest, log);
            }
            // The cells of a layer share what the layer has within them; in logarithms, since faint cells may be very faint.
            for (size_t i = first; i < first + size; ++i) sum += values[i] = std::exp(values[i] - brightest);
            const double factor = layers[l] * (inside / std::max(expected[l], 1e-300)) / sum;
            for (size_t i = first; i < first + size; ++i) values[i] *= factor;
            first += size;
        }
    }

    // Energy at a radius (Moliere radii), between the two nearest radii of the tables.
    void add(double* weights, double radius, double energy) const {
        const double place = between((std::log(radius) - low_) / step_, 0, double(kRadii) - 1.001);
        const int64_t low = int64_t(place);
        const double upper = (place - double(low)) * energy;
        weights[low] += energy - upper;
        weights[low + 1] += upper;
    }

    void spread(const double* weights, size_t layer, std::vector<double>& cells) const {
        const size_t size = size_t(layer_sizes[layer]);
        cells.assign(size, 0.0);
        const double* table = tables_ + table_[layer];
        for (int64_t k = 0; k < kRadii; ++k, table += size) {
            if (weights[k] == 0) continue;
            for (size_t i = 0; i < size; ++i) cells[i] += weights[k] * table[i];
        }
    }

    const Json& settings_;
    const GFlash shower_;
    const Places at_;
    const bool cells_;
    const double least_;                    // of a deposit, MeV
    const std::vector<double> core_, tail_;  // portions of energy of each layer, in units of the critical energy
    std::vector<Grid> grids_;
    std::vector<int64_t> first_;  // voxel of each layer
    std::vector<int64_t> table_;  // where that of a layer begins
    const double* tables_ = nullptr;
    std::vector<double> tables_room_;
    double low_ = 0, step_ = 1;
};

class PointGFlash : public PointModel {
public:
    PointGFlash(Json description, std::unique_ptr<Tensors> tensors)
        : PointModel(std::move(description), std::move(tensors)),
          shower_(description_["settings"], *tensors_, info.layers, info.particle == 22), at_(info.layers, 0),
          least_(description_["settings"]["least"].number()) {}

    int64_t most_points(double energy) const override { return shower_.spot_count(energy); }
    int64_t latent_size(const Shower& shower) const override { return at_.spots + 6 * shower_.spot_count(shower.energy); }
    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        shower_.latents(seed, shower, at_, out);
        shower_.spot_latents(seed, shower, at_, out);
    }

    int64_t decode(const Shower& shower, const float* latents, int64_t room, float* points, uint8_t* valid) const override {
        *valid = 1;
        std::vector<Spot> spots = shower_.spots(shower, latents, at_);
        const auto end = std::remove_if(spots.begin(), spots.end(), [this](const Spot& spot) { return !(spot.energy > least_); });
        const int64_t count = end - spots.begin();
        if (count > room) return count;
        for (auto spot = spots.begin(); spot != end; ++spot, points += 4) {
            points[0] = float(spot->x), points[1] = float(spot->y), points[2] = float(spot->layer), points[3] = float(spot->energy);
        }
        return count;
    }

private:
    const GFlash shower_;
    const Places at_;
    const double least_;
};

}  // namespace

std::unique_ptr<Model> open_gflash(Json description, std::unique_ptr<Tensors> tensors) {
    if (description["points"].boolean()) return std::make_unique<PointGFlash>(std::move(description), std::move(tensors));
    return std::make_unique<VoxelGFlash>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
