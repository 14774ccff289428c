// Shower library: the nearest of stored showers, turned by a symmetry and scaled to the energy that is asked for.
#include <cmath>
#include <numeric>

#include "model.hpp"
#include "stored.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

constexpr double kSameLogEnergy = 1e-6;  // energies whose logarithms differ by less are equal

class Shelves {
public:
    Shelves(const Json& settings, const Tensors& tensors, const std::vector<int64_t>& sizes, bool points)
        : stored(tensors, "stored", sizes, points), neighbours_(settings["neighbours"].whole(1, int64_t(1) << 40)),
          by_layers_(settings["by_layers"].boolean()), straight_(settings["straight"].boolean()), least_(settings["least"].number()),
          mean_(settings["mean"].number()), layers_(sizes.size()) {
        const int64_t N = stored.size();
        energies_ = tensors.in_place("log_energy", N, energies_room_);
        need(std::is_sorted(energies_, energies_ + N) && std::isfinite(energies_[0]) && std::isfinite(energies_[N - 1]),
             "the energies of the stored showers are not in order");
        trend_ = tensors.doubles("trend", 4 * int64_t(layers_));
        if (straight_) return;
        directions_ = tensors.in_place("direction", 3 * N, directions_room_);
        span_ = std::max(energies_[N - 1] - energies_[0], 1e-3);
        width_ = 1e-3;
        for (int c = 0; c < 3; ++c) {
            double low = directions_[c], high = low;
            for (int64_t r = 0; r < N; ++r) low = std::min(low, directions_[3 * r + c]), high = std::max(high, directions_[3 * r + c]);
            width_ = std::max(width_, high - low);
        }
        need(std::isfinite(width_), "a direction of a stored shower is no number");
    }

    static constexpr int64_t kLatents = 4;  // two uniform numbers
    static void latents(uint64_t seed, const Shower& shower, float* out) {
        Uniforms(Stream(seed, ""), shower.number, shower.attempt).fill(2, out);
    }

    struct Choice {
        int64_t row, image;
        std::vector<double> factors;
    };

    Choice choose(const Shower& shower, const float* latents) const {
        const double wanted = std::log(shower.energy), chance = uniform_at(latents, 0);
        Choice out{straight_ ? nearest(wanted, chance) : nearest(wanted, shower.direction, chance), 0, {1.0}};
        const double own = energies_[out.row];
        // An energy that the library holds gives a factor of exactly 1.
        if (!(std::fabs(wanted - own) < kSameLogEnergy)) out.factors[0] = shower.energy / std::exp(own);
        if (by_layers_) move_shares(out, wanted, own);
        if (straight_) out.image = std::min(int64_t(uniform_at(latents, 1) * double(stored.images())), stored.images() - 1);
        return out;
    }

    double least() const { return least_; }

    const StoredShowers stored;

private:
    // One of the nearest in energy, and of all that are as near as the last of them.
    int64_t nearest(double wanted, double chance) const {
        const int64_t N = stored.size(), count = std::min(neighbours_, N);
        const double *const begin = energies_, *const end = energies_ + N;
        int64_t right = std::lower_bound(begin, end, wanted) - begin, left = right - 1;
        double reach = 0;
        for (int64_t k = 0; k < count; ++k) {  // the next nearest, from either side
            const bool from_left = left >= 0 && (right >= N || std::fabs(begin[left] - wanted) <= std::fabs(begin[right] - wanted));
            reach = std::fabs(begin[from_left ? left-- : right++] - wanted);
        }
        reach += kSameLogEnergy;
        const int64_t low = std::lower_bound(begin, end, wanted - reach) - begin;
        const int64_t high = std::upper_bound(begin, end, wanted + reach) - begin;
        return std::min(low + int64_t(chance * double(high - low)), high - 1);
    }

    // Likewise in energy and direction, in units of their ranges.
    int64_t nearest(double wanted, const float* direction, double chance) const {
        const int64_t N = stored.size(), count = std::min(neighbours_, N);
        std::vector<double> distance(static_cast<size_t>(N));
        for (int64_t r = 0; r < N; ++r) {
            const double in_energy = wanted / span_ - energies_[r] / span_;
            double square = in_energy * in_energy;
            for (int c = 0; c < 3; ++c) {
                const double difference = double(direction[c]) / width_ - directions_[3 * r + c] / width_;
                square += difference * difference;
            }
            distance[size_t(r)] = std::sqrt(square);
        }
        std::vector<int64_t> order(static_cast<size_t>(N));
        std::iota(order.begin(), order.end(), int64_t(0));
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return distance[size_t(a)] < distance[size_t(b)]; });
        const double reach = distance[size_t(order[size_t(count - 1)])] + kSameLogEnergy;
        int64_t near = count;
        while (near < N && distance[size_t(order[size_t(near)])] <= reach) ++near;
        return order[size_t(std::min(int64_t(chance * double(near)), near - 1))];
    }

    double mean_share(size_t layer, double log_energy) const {
        const double x = log_energy - mean_;
        const double* t = trend_.data() + 4 * layer;
        return std::max(t[0] + x * t[1] + x * x * t[2] + x * x * x * t[3], 1e-5);
    }

    // Layers get the mean shares of another energy; the total stays.
    void move_shares(Choice& choice, double wanted, double own) const {
        std::vector<double> energies(layers_), ratios(layers_);
        stored.layer_energies(choice.row, energies.data());
        double all = 0, total = 0;
        for (size_t l = 0; l < layers_; ++l) {
            ratios[l] = std::min(std::max(mean_share(l, wanted) / mean_share(l, own), 0.5), 2.0);
            all += energies[l];
            total += energies[l] * ratios[l];
        }
        const double factor = choice.factors[0];
        for (double& ratio : ratios) ratio = factor * (ratio * (all / std::max(total, 1e-300)));
        choice.factors = std::move(ratios);
    }

    const int64_t neighbours_;
    const bool by_layers_, straight_;
    const double least_, mean_;  // of a deposit, MeV; mean logarithm of the energies
    const size_t layers_;
    const double *energies_ = nullptr, *directions_ = nullptr;
    std::vector<double> energies_room_, directions_room_, trend_;
    double span_ = 1, width_ = 1;
};

class VoxelLibrary : public VoxelModel {
public:
    VoxelLibrary(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), shelves_(description_["settings"], *tensors_, layer_sizes, false) {}

    int64_t latent_size(const Shower&) const override { return Shelves::kLatents; }
    void latents(uint64_t seed, const Shower& shower, float* out) const override { Shelves::latents(seed, shower, out); }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        for (int64_t r = 0; r < count; ++r, latents += Shelves::kLatents, deposits += info.voxels) {
            const Shelves::Choice choice = shelves_.choose(showers[r], latents);
            shelves_.stored.deposits(choice.row, choice.image, choice.factors, float(shelves_.least()), deposits);
            valid[r] = 1;
        }
    }

private:
    const Shelves shelves_;
};

class PointLibrary : public PointModel {
public:
    PointLibrary(Json description, std::unique_ptr<Tensors> tensors)
        : PointModel(std::move(description), std::move(tensors)), shelves_(description_["settings"], *tensors_, layer_sizes, true) {}

    int64_t most_points(double) const override { return shelves_.stored.longest(); }
    int64_t latent_size(const Shower&) const override { return Shelves::kLatents; }
    void latents(uint64_t seed, const Shower& shower, float* out) const override { Shelves::latents(seed, shower, out); }

    int64_t decode(const Shower& shower, const float* latents, int64_t room, float* points, uint8_t* valid) const override {
        const Shelves::Choice choice = shelves_.choose(shower, latents);
        const int64_t count = shelves_.stored.entries(choice.row);
        if (count <= room) shelves_.stored.as_points(choice.row, choice.factors, points);
        *valid = 1;
        return count;
    }

private:
    const Shelves shelves_;
};

}  // namespace

std::unique_ptr<Model> open_library(Json description, std::unique_ptr<Tensors> tensors) {
    if (description["points"].boolean()) return std::make_unique<PointLibrary>(std::move(description), std::move(tensors));
    return std::make_unique<VoxelLibrary>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
