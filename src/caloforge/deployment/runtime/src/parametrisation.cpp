// Parametrisation by principal components (arXiv:2109.02551): caloforge.zoo.pca_parametrisation in C++.
#include <cmath>
#include <memory>
#include <numeric>

#include "model.hpp"
#include "special.hpp"
#include "stored.hpp"
#include "streams.hpp"
#include "voxels.hpp"

namespace caloforge::runtime {

namespace {

void need_rows(const std::vector<int64_t>& rows) {
    need(rows.size() >= 2 && rows.front() == 0, "the groups of showers are inconsistent");
    for (size_t k = 1; k < rows.size(); ++k) need(rows[k] > rows[k - 1], "a group has no showers");
}

// Distribution of some variables given the incident energy; see caloforge.parts.component_bins.
class ComponentBins {
public:
    ComponentBins(const Tensors& tensors, size_t variables)
        : size_(variables), nodes_(tensors.doubles("node_energy")), node_rows_(tensors.wholes("node_rows")),
          group_rows_(tensors.wholes("group_rows")) {
        need_rows(node_rows_);
        need_rows(group_rows_);
        need(node_rows_.size() == nodes_.size() + 1 && std::is_sorted(nodes_.begin(), nodes_.end()) &&
                 group_rows_.back() == node_rows_.back() && group_rows_.size() < (size_t(1) << 31),
             "the nodes are inconsistent");
        const int64_t D = int64_t(size_), G = groups(), R = group_rows_.back();
        need(D <= 1000000 && R <= (int64_t(1) << 40), "the nodes are too many");
        factor_ = tensors.in_place("factor", G * D * D, factor_room_);
        values_ = tensors.in_place("values", R * D, values_room_);
    }

    int64_t groups() const { return int64_t(group_rows_.size()) - 1; }

    // A group by two uniform numbers: between the two nodes beside the energy the choice is linear in its logarithm.
    int64_t group(double log_energy, double which, double where) const {
        const int64_t last = int64_t(nodes_.size()) - 1;
        int64_t right = std::lower_bound(nodes_.begin(), nodes_.end(), log_energy - 1e-9) - nodes_.begin();
        right = std::min(std::max<int64_t>(right, 1), std::max<int64_t>(last, 1));
        const int64_t left = right - 1;
        right = std::min(right, last);
        const double low = nodes_[size_t(left)], width = std::max(nodes_[size_t(right)] - low, 1e-300);
        double weight = unit_interval((log_energy - low) / width);
        weight = weight < 1e-9 ? 0 : weight > 1 - 1e-9 ? 1 : weight;  // an energy that is a node but for rounding belongs to it alone
        const size_t node = size_t(which < weight ? right : left);
        const int64_t first = node_rows_[node], stop = node_rows_[node + 1];
        const int64_t row = std::min(first + int64_t(where * double(stop - first)), stop - 1);
        return std::upper_bound(group_rows_.begin(), group_rows_.end(), row) - group_rows_.begin() - 1;
    }

    void draw(int64_t group, const float* normal, double* variables) const {
        const size_t D = size_;
        const double* const factor = factor_ + size_t(group) * D * D;
        const int64_t first = group_rows_[size_t(group)], last = group_rows_[size_t(group) + 1] - 1;
        std::fill_n(variables, D, 0.0);
        for (size_t k = 0; k < D; ++k)
            for (size_t j = 0; j < D; ++j) variables[j] += double(normal[k]) * factor[k * D + j];
        for (size_t j = 0; j < D; ++j) {
            const double place = between(normal_share(variables[j]) * double(last + 1 - first) - 0.5, 0, double(last - first));
            const int64_t low = first + int64_t(place), high = std::min(low + 1, last);
            const double share = place - std::floor(place), a = values_[size_t(low) * D + j], b = values_[size_t(high) * D + j];
            variables[j] = a + share * (b - a);
        }
    }

private:
    const size_t size_;
    const std::vector<double> nodes_;
    const std::vector<int64_t> node_rows_, group_rows_;
    const double *factor_ = nullptr, *values_ = nullptr;
    std::vector<double> factor_room_, values_room_;
};

// Variables to energies of the layers.
class LayerFractions {
public:
    LayerFractions(const Json& settings, const Tensors& tensors, size_t layers)
        : recursive_(settings["recursive"].boolean()), share_(tensors.doubles("faint_share", int64_t(layers))) {
        for (const Json& layer : settings["faint"].list()) {
            const size_t l = size_t(layer.whole(0, int64_t(layers) - 1));
            if (faint_.empty()) faint_.assign(layers, false);
            faint_[l] = true;
        }
    }

    void restore(const double* variables, double incident, size_t layers, double* energies) const {
        const double total = std::max(variables[layers], 0.0) * incident;
        double left = 1, sum = 0;
        for (size_t l = 0; l < layers; ++l) {
            double fraction = std::max(variables[l], 0.0);
            if (recursive_) {
                const double own = std::min(fraction, 1.0);
                fraction = own * left;
                left *= 1 - own;
            }
            sum += energies[l] = fraction;
        }
        for (size_t l = 0; l < layers; ++l) energies[l] = total * energies[l] / std::max(sum, 1e-300);
        if (faint_.empty()) return;
        double joined = 0;
        for (size_t l = 0; l < layers; ++l) joined += faint_[l] ? energies[l] : 0;
        for (size_t l = 0; l < layers; ++l)
            if (faint_[l]) energies[l] = joined * share_[l];
    }

private:
    const bool recursive_;
    const std::vector<double> share_;  // of the energy of all faint layers
    std::vector<bool> faint_;
};

// Shares of the cells in their layers; see caloforge.parts.lateral.
class LateralShapes {
public:
    LateralShapes(const Json& settings, const Tensors& tensors, const std::vector<int64_t>& sizes, int64_t groups)
        : sizes_(sizes), voxels_(std::accumulate(sizes.begin(), sizes.end(), int64_t(0))), mean_(tensors.doubles("mean", voxels_)) {
        const std::string& kind = settings["lateral"].text();
        const int64_t L = int64_t(sizes.size());
        if (kind == "showers") {
            kind_ = Kind::showers;
            stored_ = std::make_unique<StoredShowers>(tensors, "stored", sizes, false);
            rows_ = tensors.wholes("group_rows");
            need(rows_.back() == stored_->size() && int64_t(rows_.size()) == groups + 1, "the stored showers do not fit the groups");
            log_layers_ = tensors.in_place("log_layers", stored_->size() * L, log_layers_room_);
            return;
        }
        need(kind == "hits" || kind == "cells", "cells are lit in an unknown way");
        kind_ = kind == "hits" ? Kind::hits : Kind::cells;
        lit_ = tensors.in_place("lit", groups * voxels_, lit_room_);
        if (kind_ == Kind::hits) {
            hits_ = tensors.in_place("hits", groups * L, hits_room_);
            return;
        }
        log_mean_ = tensors.in_place("log_mean", groups * voxels_, log_mean_room_);
        log_spread_ = tensors.in_place("log_spread", groups * voxels_, log_spread_room_);
    }

    int64_t latents() const { return kind_ == Kind::showers ? 2 : voxels_; }

    // Shares that add up to one in each layer.
    void draw(int64_t group, const float* normal, const double* energies, double* shares) const {
        if (kind_ == Kind::showers) take_shower(group, normal, energies, shares);
        else if (kind_ == Kind::hits) draw_hits(group, normal, shares);
        else draw_cells(group, normal, shares);
        size_t i = 0;
        for (int64_t size : sizes_) {
            const size_t end = i + size_t(size);
            const double total = std::accumulate(shares + i, shares + end, 0.0);
            for (; i < end; ++i) shares[i] = total > 0 ? shares[i] / std::max(total, 1e-300) : mean_[i];
        }
    }

private:
    enum class Kind { hits, cells, showers };
    static constexpr double kMany = 16, kTiny = 1e-12;
    static constexpr int kCounted = 44;
    static constexpr int64_t kNearest = 5;

    void draw_cells(int64_t group, const float* normal, double* shares) const {
        const int64_t first = group * voxels_;
        for (int64_t i = 0; i < voxels_; ++i) {
            const double lit = double(lit_[first + i]), chance = normal_share(double(normal[i]));
            shares[i] = 0;
            if (!(chance < lit)) continue;
            // Given that it is below the probability, its share of it is uniform, and so a Gaussian number of its own.
            const double own = std::min(std::max(chance / std::max(lit, kTiny), 1e-9), 1 - 1e-9);
            shares[i] = std::exp(double(log_mean_[first + i]) + double(log_spread_[first + i]) * normal_quantile(own));
        }
    }

    void draw_hits(int64_t group, const float* normal, double* shares) const {
        const size_t L = sizes_.size();
        int64_t i = 0;
        for (size_t l = 0; l < L; ++l)
            for (const int64_t end = i + sizes_[l]; i < end; ++i) {
                const double mean = double(lit_[group * voxels_ + i]) * double(hits_[size_t(group) * L + l]), z = double(normal[i]);
                if (!(mean < kMany)) {
                    shares[i] = std::nearbyint(mean + std::sqrt(mean) * z + (z * z - 1) / 6);
                    continue;
                }
                const double chance = normal_share(z);
                double probability = std::exp(-mean), below = probability;
                int count = 0;
                for (int number = 1; number < kCounted && chance > below; ++number) {
                    ++count;
                    probability = probability * mean / number;
                    below += probability;
                }
                shares[i] = count;
            }
    }

    // One of the showers of the group whose layers have the most similar energies.
    void take_shower(int64_t group, const float* normal, const double* energies, double* shares) const {
        const size_t L = sizes_.size();
        const int64_t first = rows_[size_t(group)], stop = rows_[size_t(group) + 1], count = std::min(kNearest, stop - first);
        std::vector<std::pair<double, int64_t>> near;
        for (int64_t r = first; r < stop; ++r) {
            double square = 0;
            for (size_t l = 0; l < L; ++l) {
                const double difference = std::log1p(energies[l]) - double(log_layers_[size_t(r) * L + l]);
                square += difference * difference;
            }
            near.emplace_back(std::sqrt(square), r);
        }
        std::partial_sort(near.begin(), near.begin() + count, near.end());
        const double images = double(stored_->images());
        const int64_t place = int64_t(between(normal_share(double(normal[0])) * double(count), 0, double(count - 1)));
        const int64_t image = int64_t(between(normal_share(double(normal[1])) * images, 0, images - 1));
        std::vector<float> deposits(static_cast<size_t>(voxels_));
        stored_->deposits(near[size_t(place)].second, image, {1.0}, 0, deposits.data());
        std::copy(deposits.begin(), deposits.end(), shares);
    }

    const std::vector<int64_t> sizes_;
    const int64_t voxels_;
    const std::vector<double> mean_;
    Kind kind_ = Kind::cells;
    const float *lit_ = nullptr, *log_mean_ = nullptr, *log_spread_ = nullptr, *hits_ = nullptr, *log_layers_ = nullptr;
    std::vector<float> lit_room_, log_mean_room_, log_spread_room_, hits_room_, log_layers_room_;
    std::unique_ptr<StoredShowers> stored_;
    std::vector<int64_t> rows_;
};

class Parametrisation : public VoxelModel {
public:
    Parametrisation(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          bins_(*tensors_, layer_sizes.size() + 1), fractions_(settings_, *tensors_, layer_sizes.size()),
          lateral_(settings_, *tensors_, layer_sizes, bins_.groups()),
          cut_(settings_["cut"].number()) {
        need(cut_ >= 0, "a setting is out of range");
    }

    int64_t latent_size(const Shower&) const override { return variables() + lateral_.latents() + kUniform; }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        Stream(seed, "energies").normals(shower.number, shower.attempt, variables(), out);
        Stream(seed, "cells").normals(shower.number, shower.attempt, lateral_.latents(), out + variables());
        Uniforms(Stream(seed, "node"), shower.number, shower.attempt).fill(2, out + variables() + lateral_.latents());
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const size_t L = layer_sizes.size(), V = size_t(info.voxels);
        std::vector<double> variables(L + 1), energies(L), values(V);
        LayerCut cut;
        for (int64_t r = 0; r < count; ++r, deposits += V) {
            const float *const normal = latents, *const cells = latents + L + 1, *const node = cells + lateral_.latents();
            latents = node + kUniform;
            const int64_t group = bins_.group(std::log(showers[r].energy), uniform_at(node, 0), uniform_at(node, 1));
            bins_.draw(group, normal, variables.data());
            fractions_.restore(variables.data(), showers[r].energy, L, energies.data());
            lateral_.draw(group, cells, energies.data(), values.data());
            double* value = values.data();
            for (size_t l = 0; l < L; ++l) {
                const int size = int(layer_sizes[l]);
                for (int i = 0; i < size; ++i) value[i] *= energies[l];
                if (cut_ > 0) cut.apply(size, value, energies[l], cut_, 0);
                value += size;
            }
            std::copy(values.begin(), values.end(), deposits);
            valid[r] = 1;
        }
    }

private:
    static constexpr int64_t kUniform = 4;  // two numbers that choose a group
    int64_t variables() const { return int64_t(layer_sizes.size()) + 1; }

    const Json& settings_;
    const ComponentBins bins_;
    const LayerFractions fractions_;
    const LateralShapes lateral_;
    const double cut_;
};

}  // namespace

std::unique_ptr<Model> open_parametrisation(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<Parametrisation>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
