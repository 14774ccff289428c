// CaloClouds 2 (arXiv:2309.05704) and 3 (arXiv:2511.01460): layers from ShowerFlow, points from the one-step network. All that
// follows the flow is the kernel of the Python package, with every correction that it knows.
#include "point_cloud.hpp"

#include "flows.hpp"
#include "model.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

// The row of numbers that caloforge.kernels.ops.clouds makes, once it was looked at.
std::vector<double> checked_constants(std::vector<double> row) {
    constexpr int kArrays = 23;
    const size_t head = CloudConstants::kSettings + kArrays;
    need(row.size() >= head, "the constants are too few");
    for (double value : row) need(std::isfinite(value), "a constant is no number");
    const double layers = row[14], totals = row[15];
    need(layers >= 1 && layers <= 100000 && (totals == 0 || totals == 5), "the constants are out of range");
    const int64_t L = int64_t(layers), F = int64_t(totals) + 2 * L;
    const int64_t sizes[kArrays] = {F, F, 4, 4, L, 2, 7 * F, 2 * F, 7 * F, 7 * F, 2 * F, 2 * F,
                                    F * F, 2, 14, 14, 4, 4, L, L, 1, L, 8};
    for (int k = 0; k < kArrays; ++k) {
        const double place = row[size_t(CloudConstants::kSettings + k)];
        need(place == 0 || (place >= double(head) && place + double(sizes[k]) <= double(row.size())), "a constant is missing");
    }
    return row;
}

class CaloClouds : public PointModel {
public:
    CaloClouds(Json description, std::unique_ptr<Tensors> tensors)
        : PointModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          row_(checked_constants(tensors_->doubles("constants"))), constants_(row_.data()),
          flow_(*tensors_, "flow", settings_["flow"]["spline"].numbers(5)), network_(*tensors_, "points"),
          room_(settings_["room"].numbers(3)) {
        const bool totals = constants_.totals != 0;
        need(constants_.layers == info.layers && flow_.features() == constants_.features() && flow_.context() == (totals ? 1 : 4) &&
                 network_.network().shape.context == constants_.context(),
             "the networks do not fit the layers");
        need(!constants_.made_mean == !constants_.real_mean && !constants_.made_mean == !constants_.made_variance &&
                 !constants_.made_mean == !constants_.real_variance && (constants_.made_mean || !constants_.spread) &&
                 (!constants_.polynomials || constants_.occupancy),
             "a correction is there in part");
        const bool all[] = {constants_.total_scale != nullptr, constants_.made_total != nullptr, constants_.real_total != nullptr,
                            constants_.made_total_variance != nullptr, constants_.real_total_variance != nullptr};
        for (bool there : all) need(there == all[0], "a correction is there in part");
    }

    int64_t most_points(double energy) const override {
        const double limit = std::ceil(constants_.room * (room_[0] + room_[1] * energy)), most = limit * room_[2] + info.layers;
        return most >= 0 && most < 1e9 ? int64_t(most) : 0;
    }
    int64_t latent_size(const Shower& shower) const override { return flow_.features() + 4 * most_points(shower.energy); }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        Stream(seed, "profile").normals(shower.number, shower.attempt, flow_.features(), out);
        Stream(seed, "points").normals(shower.number, shower.attempt, 4 * most_points(shower.energy), out + flow_.features());
    }

    int64_t generate(uint64_t seed, const Shower& shower, int64_t room, float* points, uint8_t* valid) const override {
        std::vector<float> raw, normals(size_t(flow_.features()));
        Stream(seed, "profile").normals(shower.number, shower.attempt, flow_.features(), normals.data());
        const int64_t count = begin(shower, normals.data(), raw, valid);
        if (count > room || !count) return count;
        // Only as many numbers as there are points: the rest of the stream decides nothing.
        normals.resize(size_t(4 * count));
        Stream(seed, "points").normals(shower.number, shower.attempt, 4 * count, normals.data());
        finish(shower, raw, normals.data(), count, points);
        return count;
    }

    int64_t decode(const Shower& shower, const float* latents, int64_t room, float* points, uint8_t* valid) const override {
        std::vector<float> raw;
        const int64_t count = begin(shower, latents, raw, valid);
        if (count && count <= room) finish(shower, raw, latents + flow_.features(), count, points);
        return count;
    }

private:
    // What the first latents decide: number of points and whether the shower is valid, which one without room for its points is not.
    int64_t begin(const Shower& shower, const float* latents, std::vector<float>& raw, uint8_t* valid) const {
        const double relative = shower.energy / constants_.incident;
        float context[4] = {float(relative), shower.direction[0], shower.direction[1], shower.direction[2]};
        raw.resize(size_t(flow_.features()));
        flow_.run(1, latents, context, raw.data());
        LayersOfShower layers(constants_);
        std::vector<int64_t> counts(size_t(info.layers));
        std::vector<double> energies(size_t(info.layers));
        double gravity[2];
        const int64_t count = layers.run(raw.data(), shower.energy, shower.direction, double(most_points(shower.energy)), counts.data(),
                                         energies.data(), gravity, context, valid);
        if (count < 0) *valid = 0;
        return *valid ? count : 0;
    }

    void finish(const Shower& shower, const std::vector<float>& raw, const float* normals, int64_t count, float* points) const {
        const int64_t starts[] = {0, count};
        int64_t offsets[2];
        uint8_t valid = 0;
        decode_clouds<float>(network_.network(), constants_, 1, raw.data(), &shower.energy, shower.direction, normals, starts,
                             offsets, points, &valid, 1);
    }

    const Json& settings_;
    const std::vector<double> row_;
    const CloudConstants constants_;
    ShowerFlowSampler flow_;
    PointSampler network_;
    std::vector<double> room_;  // points allowed by the conditions: constant, slope per MeV, largest factor of the calibration
};

}  // namespace

std::unique_ptr<Model> open_caloclouds(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<CaloClouds>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
