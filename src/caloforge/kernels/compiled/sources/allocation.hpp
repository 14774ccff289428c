// Points dealt out to the layers of a shower; caloforge.kernels.ops.allocation says what it is and has the plain version.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace caloforge {

struct Shower {
    int layers;
    const int64_t* counts;                       // of the layers
    const double* energies;                      // of the layers
    const double *x, *y;                         // of the points, `step` numbers apart
    int step;
    const double *depth, *energy;                // of the points
    const double* gravity;                       // or null
    const double* shift;                         // x and y of each layer
    float* points;
};

class Allocator {
public:
    explicit Allocator(int layers) : reach_(4.0 * layers), layers_(layers), first_(layers + 1), next_(layers + 1), made_(layers) {}

    void run(const Shower& s) {
        first_[0] = 0;
        for (int l = 0; l < layers_; ++l) first_[l + 1] = first_[l] + int(s.counts[l]);
        const int points = first_[layers_];
        layer_.resize(points);
        find_layers(s.depth, points);

        std::fill(made_.begin(), made_.end(), 0.0);
        for (int k = 0; k < points; ++k) made_[layer_[k]] += s.energy[k];
        for (int l = 0; l < layers_; ++l) made_[l] = s.energies[l] / at_least_tiny(made_[l]);
        double away[2] = {0, 0};
        if (s.gravity) {
            double sums[3] = {0, 0, 0};
            for (int k = 0; k < points; ++k) {
                const double weight = s.energy[k] * made_[layer_[k]];
                sums[0] += s.x[ptrdiff_t(k) * s.step] * weight;
                sums[1] += s.y[ptrdiff_t(k) * s.step] * weight;
                sums[2] += weight;
            }
            for (int axis = 0; axis < 2; ++axis) away[axis] = s.gravity[axis] - sums[axis] / at_least_tiny(sums[2]);
        }
        // In the order of the points' numbers, so that those of a layer keep it.
        std::copy(first_.begin(), first_.end(), next_.begin());
        for (int k = 0; k < points; ++k) {
            const int l = layer_[k];
            float* out = s.points + 4 * ptrdiff_t(next_[l]++);
            out[0] = float(s.x[ptrdiff_t(k) * s.step] + away[0] + s.shift[2 * l]);
            out[1] = float(s.y[ptrdiff_t(k) * s.step] + away[1] + s.shift[2 * l + 1]);
            out[2] = float(l);
            out[3] = float(s.energy[k] * made_[l]);
        }
    }

private:
    static constexpr int kBuckets = 2048;

    static double at_least_tiny(double value) { return value < 1e-300 ? 1e-300 : value; }  // a NaN stays

    // Layer of every point: the shallowest ones belong to the first layer, and so on, equally deep ones in their order. Only
    // the points of a bucket of nearly equal depth that several layers share have to be sorted.
    void find_layers(const double* depth, int points) {
        double low = reach_, high = -reach_;
        for (int k = 0; k < points; ++k) {
            const double d = clamped(depth[k]);
            low = d < low ? d : low;
            high = d > high ? d : high;
        }
        const double scale = high - low > 1e-300 ? kBuckets / (high - low) : 0;
        bucket_.resize(points);
        count_.assign(kBuckets, 0);
        for (int k = 0; k < points; ++k) {
            bucket_[k] = std::min(int((clamped(depth[k]) - low) * scale), kBuckets - 1);
            ++count_[bucket_[k]];
        }
        owner_.resize(kBuckets);
        shared_.clear();
        int layer = 0, start = 0;
        for (int b = 0; b < kBuckets; ++b) {
            const int count = count_[b];
            if (count) {
                while (first_[layer + 1] <= start) ++layer;
                const bool shared = start + count > first_[layer + 1];
                owner_[b] = shared ? -1 - int(shared_.size()) : layer;
                if (shared) shared_.push_back({start, start});
            }
            start += count;
        }
        sorted_.resize(points);
        for (int k = 0; k < points; ++k) {
            const int owner = owner_[bucket_[k]];
            if (owner >= 0)
                layer_[k] = owner;
            else
                sorted_[shared_[-1 - owner].end++] = k;
        }
        for (const Range& range : shared_) {
            std::sort(sorted_.begin() + range.start, sorted_.begin() + range.end, [&](int i, int j) {
                const double a = clamped(depth[i]), b = clamped(depth[j]);
                return a < b || (a == b && i < j);
            });
            int l = int(std::upper_bound(first_.begin(), first_.end(), range.start) - first_.begin()) - 1;
            for (int k = range.start; k < range.end; ++k) {
                while (first_[l + 1] <= k) ++l;
                layer_[sorted_[k]] = l;
            }
        }
    }

    // A NaN is deepest.
    double clamped(double depth) const {
        depth = depth < -reach_ ? -reach_ : depth;
        return depth < reach_ ? depth : reach_;
    }

    struct Range {
        int start, end;
    };

    double reach_;
    int layers_;
    std::vector<int> first_, next_;
    std::vector<double> made_;
    std::vector<int> bucket_, count_, owner_, sorted_, layer_;
    std::vector<Range> shared_;
};

}  // namespace caloforge
