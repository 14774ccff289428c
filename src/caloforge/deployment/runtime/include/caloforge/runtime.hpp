// C++ on top of runtime.h: a model that closes itself, vectors instead of pointers, exceptions instead of error codes. Header only,
// so exceptions and containers never cross the boundary of the library.
#pragma once

#include <array>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime.h"

namespace caloforge {

class Error : public std::runtime_error {
public:
    Error(cf_error code, const std::string& text) : std::runtime_error(text), code_(code) {}
    cf_error code() const { return code_; }

private:
    cf_error code_;
};

inline void check(cf_error error) {
    if (error != CF_SUCCESS) throw Error(error, cf_error_text(error));
}

struct VoxelShowers {
    std::vector<float> deposits;  // showers x voxels, MeV
    std::vector<uint8_t> status;  // cf_status
};

struct PointShowers {
    std::vector<float> points;     // x, y (mm), layer, energy (MeV) of each
    std::vector<int64_t> offsets;  // where each shower starts; one more than showers
    std::vector<uint8_t> status;
};

struct Spots {
    std::vector<cf_spot> spots;
    std::vector<int64_t> offsets;
};

class Model {
public:
    explicit Model(const std::string& directory) {
        if (cf_abi() != CALOFORGE_ABI) throw Error(CF_VERSION, "the CaloForge library has another interface than its header");
        char message[512] = "";
        cf_model* opened = nullptr;
        const cf_error error = cf_open(directory.c_str(), &opened, message, sizeof message);
        if (error != CF_SUCCESS) throw Error(error, message);
        model_.reset(opened);
        check(cf_get_info(opened, &info_));
    }

    const cf_info& info() const { return info_; }
    const cf_model* get() const { return model_.get(); }

    // Showers of these particles, numbered from `first`.
    VoxelShowers generate(const std::vector<cf_particle>& particles, uint64_t seed, uint64_t first = 0, uint32_t flags = 0) const {
        const std::vector<uint64_t> numbers = numbered(particles.size(), first);
        VoxelShowers made{std::vector<float>(particles.size() * size_t(info_.voxels)), std::vector<uint8_t>(particles.size())};
        check(cf_generate(get(), int64_t(particles.size()), particles.data(), seed, numbers.data(), flags, made.deposits.data(),
                          made.status.data()));
        return made;
    }

    PointShowers generate_points(const std::vector<cf_particle>& particles, uint64_t seed, uint64_t first = 0,
                                 uint32_t flags = 0) const {
        const std::vector<uint64_t> numbers = numbered(particles.size(), first);
        PointShowers made{{}, std::vector<int64_t>(particles.size() + 1), std::vector<uint8_t>(particles.size())};
        int64_t capacity = 0;
        for (const cf_particle& particle : particles) {
            int64_t most = 0;
            if (cf_most_points(get(), &particle, &most) == CF_SUCCESS) capacity += most;  // else it will be reported as outside
        }
        made.points.resize(size_t(4 * capacity));
        check(cf_generate_points(get(), int64_t(particles.size()), particles.data(), seed, numbers.data(), flags, capacity,
                                 made.points.data(), made.offsets.data(), made.status.data()));
        made.points.resize(size_t(4 * made.offsets.back()));
        return made;
    }

    // Spots in the local frame; `seed` and `first` as when generating.
    Spots place(const VoxelShowers& showers, int per_voxel = 1, uint64_t seed = 0, uint64_t first = 0) const {
        const size_t n = showers.status.size();
        const std::vector<uint64_t> numbers = numbered(n, first);
        size_t lit = 0;
        for (float deposit : showers.deposits) lit += deposit > 0;
        Spots made{std::vector<cf_spot>(lit * size_t(per_voxel > 0 ? per_voxel : 0)), std::vector<int64_t>(n + 1)};
        check(cf_place(get(), int64_t(n), showers.deposits.data(), per_voxel, seed, numbers.data(), int64_t(made.spots.size()),
                       made.spots.data(), made.offsets.data()));
        return made;
    }

    Spots place(const PointShowers& showers) const {
        Spots made{std::vector<cf_spot>(showers.points.size() / 4), showers.offsets};
        check(cf_place_points(get(), int64_t(made.spots.size()), showers.points.data(), made.spots.data()));
        return made;
    }

private:
    static std::vector<uint64_t> numbered(size_t n, uint64_t first) {
        std::vector<uint64_t> numbers(n);
        for (size_t k = 0; k < n; ++k) numbers[k] = first + k;
        return numbers;
    }

    struct Close {
        void operator()(cf_model* model) const { cf_close(model); }
    };
    std::unique_ptr<cf_model, Close> model_;
    cf_info info_{};
};

// The local frame of a calorimeter in the world: entry point, and the directions of the local x, y and z.
struct Frame {
    std::array<double, 3> origin{}, x{1, 0, 0}, y{0, 1, 0}, z{0, 0, 1};

    std::array<double, 3> to_world(const cf_spot& spot) const {
        std::array<double, 3> out = origin;
        for (size_t k = 0; k < 3; ++k) out[k] += spot.x * x[k] + spot.y * y[k] + spot.z * z[k];
        return out;
    }
    // A direction of the world, in the local frame.
    std::array<double, 3> to_local(const std::array<double, 3>& v) const {
        return {v[0] * x[0] + v[1] * x[1] + v[2] * x[2], v[0] * y[0] + v[1] * y[1] + v[2] * y[2],
                v[0] * z[0] + v[1] * z[1] + v[2] * z[2]};
    }
};

}  // namespace caloforge
