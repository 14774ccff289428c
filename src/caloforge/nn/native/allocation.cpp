// Points dealt out to the layers of a shower; caloforge.nn.allocation says what it is and has the plain version.
#include <cstddef>
#include <numeric>

#include "parallel.hpp"

namespace caloforge {

struct Shower {
    int layers;
    const int64_t* counts;
    const double *energies, *place, *depth, *energy;  // of the layers; of the points
    const double* gravity;                            // or null
    const double* shift;
    float* points;
};

class Allocator {
public:
    explicit Allocator(int layers) : reach_(4.0 * layers), factor_(layers), first_(layers + 1) {}

    void run(const Shower& s) {
        const int points = int(std::accumulate(s.counts, s.counts + s.layers, int64_t(0)));
        sort_by_depth(s.depth, points);
        // Layer of every point, then the points of each layer in the order of their numbers.
        layer_.resize(points);
        first_[0] = 0;
        for (int l = 0; l < s.layers; ++l) {
            first_[l + 1] = first_[l] + int(s.counts[l]);
            for (int k = first_[l]; k < first_[l + 1]; ++k) layer_[sorted_[k]] = l;
        }
        order_.resize(points);
        std::vector<int>& next = starts_;
        next.assign(first_.begin(), first_.end());
        for (int k = 0; k < points; ++k) order_[next[layer_[k]]++] = k;

        double sums[3] = {0, 0, 0};
        for (int l = 0; l < s.layers; ++l) {
            double made = 0;
            for (int k = first_[l]; k < first_[l + 1]; ++k) made += s.energy[order_[k]];
            factor_[l] = s.energies[l] / (made < 1e-300 ? 1e-300 : made);
            if (!s.gravity) continue;
            for (int k = first_[l]; k < first_[l + 1]; ++k) {
                const int p = order_[k];
                const double weight = s.energy[p] * factor_[l];
                sums[0] += s.place[2 * p] * weight;
                sums[1] += s.place[2 * p + 1] * weight;
                sums[2] += weight;
            }
        }
        double away[2] = {0, 0};
        if (s.gravity)
            for (int axis = 0; axis < 2; ++axis) away[axis] = s.gravity[axis] - sums[axis] / (sums[2] < 1e-300 ? 1e-300 : sums[2]);
        for (int l = 0; l < s.layers; ++l)
            for (int k = first_[l]; k < first_[l + 1]; ++k) {
                const int p = order_[k];
                float* out = s.points + 4 * std::ptrdiff_t(k);
                for (int axis = 0; axis < 2; ++axis) out[axis] = float(s.place[2 * p + axis] + away[axis] + s.shift[2 * l + axis]);
                out[2] = float(l);
                out[3] = float(s.energy[p] * factor_[l]);
            }
    }

private:
    // Numbers of the points from the shallowest to the deepest, equal ones in their order. Buckets of nearly equal depth
    // first, then the few in each: showers fill a small part of the reach rather evenly.
    void sort_by_depth(const double* depth, int points) {
        constexpr int buckets = 4096;
        value_.resize(points);
        bucket_.resize(points);
        starts_.assign(buckets + 1, 0);
        for (int k = 0; k < points; ++k) {
            double d = depth[k];
            d = d < -reach_ ? -reach_ : d;
            d = d < reach_ ? d : reach_;  // a NaN is deepest
            value_[k] = d;
            bucket_[k] = std::min(int((d + reach_) / (2 * reach_) * buckets), buckets - 1);
            ++starts_[bucket_[k] + 1];
        }
        for (int b = 0; b < buckets; ++b) starts_[b + 1] += starts_[b];
        sorted_.resize(points);
        next_ = starts_;
        for (int k = 0; k < points; ++k) sorted_[next_[bucket_[k]]++] = k;
        for (int b = 0; b < buckets; ++b)
            if (starts_[b + 1] - starts_[b] > 1)
                std::stable_sort(sorted_.begin() + starts_[b], sorted_.begin() + starts_[b + 1],
                                 [this](int i, int j) { return value_[i] < value_[j]; });
    }

    double reach_;
    std::vector<double> value_, factor_;
    std::vector<int> bucket_, starts_, next_, sorted_, layer_, order_, first_;
};

}  // namespace caloforge

extern "C" void caloforge_allocate(int64_t showers, int layers, const int64_t* counts, const double* energies,
                                   const double* place, const double* depth, const double* energy, const double* gravity,
                                   const double* shift, float* points, int threads) {
    std::vector<int64_t> offsets(showers + 1, 0);
    for (int64_t n = 0; n < showers; ++n)
        offsets[n + 1] = std::accumulate(counts + n * layers, counts + (n + 1) * layers, offsets[n]);
    caloforge::parallel(showers, 8, threads, [&](int64_t n, int64_t end) {
        caloforge::Allocator allocator(layers);
        for (; n < end; ++n) {
            const int64_t first = offsets[n];
            allocator.run({layers, counts + n * layers, energies + n * layers, place + 2 * first, depth + first, energy + first,
                           gravity ? gravity + 2 * n : nullptr, shift + 2 * n * layers, points + 4 * first});
        }
    });
}
