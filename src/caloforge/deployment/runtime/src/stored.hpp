// Showers that a model keeps as they are, and their images under symmetries: caloforge.parts.stored_showers in C++. They stay in
// the file, of which only those pages need memory that are looked at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "failure.hpp"
#include "tensors.hpp"

namespace caloforge::runtime {

class StoredShowers {
public:
    // `sizes`: voxels of each layer; all 0 for points.
    StoredShowers(const Tensors& tensors, const std::string& name, const std::vector<int64_t>& sizes, bool points) : points_(points) {
        for (size_t l = 0; l < sizes.size(); ++l) layer_.insert(layer_.end(), size_t(sizes[l]), int32_t(l));
        layers_ = int64_t(sizes.size());
        const int64_t V = int64_t(layer_.size());
        const std::vector<int64_t> starts = tensors.wholes(name + ".starts");
        const int64_t entries = tensors.count(name + ".energy");
        need(starts.size() >= 2 && starts.front() == 0 && starts.back() == entries && std::is_sorted(starts.begin(), starts.end()),
             "the stored showers are inconsistent");
        starts_ = starts;
        energy_ = tensors.in_place(name + ".energy", entries, energy_room_);
        if (points_) {
            places_ = tensors.in_place(name + ".place", 3 * entries, places_room_);
            for (int64_t k = 0; k < entries; ++k)
                need(places_[3 * k + 2] >= 0 && places_[3 * k + 2] < float(layers_), "a stored point is in no layer");
            for (int64_t r = 0; r < size(); ++r) longest_ = std::max(longest_, starts_[size_t(r) + 1] - starts_[size_t(r)]);
            return;
        }
        cells_ = tensors.in_place(name + ".place", entries, cells_room_);
        need(std::all_of(cells_, cells_ + entries, [V](int32_t cell) { return cell >= 0 && cell < V; }), "a stored voxel is out of range");
        const int64_t numbers = tensors.count(name + ".images");
        need(V > 0 && numbers >= V && numbers % V == 0, "the images of the stored showers are inconsistent");
        images_ = tensors.in_place(name + ".images", numbers, images_room_);
        number_of_images_ = numbers / V;
        need(std::all_of(images_, images_ + numbers, [V](int32_t cell) { return cell >= 0 && cell < V; }), "an image is out of range");
    }

    int64_t size() const { return int64_t(starts_.size()) - 1; }
    int64_t images() const { return number_of_images_; }
    int64_t longest() const { return longest_; }
    int64_t entries(int64_t row) const { return starts_[size_t(row) + 1] - starts_[size_t(row)]; }

    // Energy of a shower in each layer.
    void layer_energies(int64_t row, double* energies) const {
        std::fill_n(energies, layers_, 0.0);
        for (int64_t k = starts_[size_t(row)]; k < starts_[size_t(row) + 1]; ++k) energies[layer_of(k)] += double(energy_[k]);
    }

    // A shower on its voxels; `factors` are of the layers, or the same for all.
    void deposits(int64_t row, int64_t image, const std::vector<double>& factors, float least, float* out) const {
        std::fill_n(out, layer_.size(), 0.0f);
        const int32_t* const moved = images_ + image * int64_t(layer_.size());
        for (int64_t k = starts_[size_t(row)]; k < starts_[size_t(row) + 1]; ++k) {
            const float energy = scaled(k, factors);
            out[moved[cells_[k]]] = energy < least ? 0.0f : energy;
        }
    }

    void as_points(int64_t row, const std::vector<double>& factors, float* out) const {
        for (int64_t k = starts_[size_t(row)]; k < starts_[size_t(row) + 1]; ++k, out += 4) {
            std::copy_n(places_ + 3 * k, 3, out);
            out[3] = scaled(k, factors);
        }
    }

private:
    size_t layer_of(int64_t k) const { return points_ ? size_t(places_[3 * k + 2]) : size_t(layer_[size_t(cells_[k])]); }
    float scaled(int64_t k, const std::vector<double>& factors) const {
        return float(double(energy_[k]) * factors[factors.size() > 1 ? layer_of(k) : 0]);
    }

    bool points_;
    int64_t layers_ = 0, number_of_images_ = 1, longest_ = 0;
    std::vector<int32_t> layer_;  // of each voxel
    std::vector<int64_t> starts_;
    const float *energy_ = nullptr, *places_ = nullptr;
    const int32_t *cells_ = nullptr, *images_ = nullptr;
    std::vector<float> energy_room_, places_room_;
    std::vector<int32_t> cells_room_, images_room_;
};

}  // namespace caloforge::runtime
