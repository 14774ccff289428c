// CaloFlow (arXiv:2106.05285), its student (arXiv:2110.11377) and CaloINN in two steps: layer energies from one flow, shares of the
// voxels from another.
#include "flows.hpp"
#include "model.hpp"
#include "streams.hpp"
#include "voxels.hpp"

namespace caloforge::runtime {

namespace {

class CaloFlow : public VoxelModel {
public:
    CaloFlow(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          energies_(open_flow(*tensors_, "energies", settings_["energies"]["flow"])),
          shapes_(open_flow(*tensors_, "shapes", settings_["shapes"]["flow"])), of_layers_(settings_["energies"]),
          stream_(settings_["shapes"]["stream"].text()), shapes_first_(settings_["shapes"]["first"].boolean()),
          log_incident_(settings_["log_incident"]), log_layers_(settings_["log_layers"]), emphasis_(settings_["emphasis"].number()),
          back_(settings_["shapes"], layer_sizes) {
        const int layers = int(info.layers);
        need(energies_->features() == layers && energies_->context() == 1 && shapes_->features() == back_.features() &&
                 shapes_->context() == 1 + layers,
             "the flows do not fit the layers");
    }

    int64_t latent_size(const Shower&) const override { return energies_->features() + shapes_->features(); }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        Stream(seed, "energies").normals(shower.number, shower.attempt, energies_->features(), out + place_of_energies());
        Stream(seed, stream_).normals(shower.number, shower.attempt, shapes_->features(), out + place_of_shapes());
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const int L = energies_->features(), D = shapes_->features(), C = 1 + L;
        const size_t n = size_t(count);
        std::vector<float> z(n * size_t(D)), context(n * size_t(C)), x(n * size_t(D));
        std::vector<double> energies(n * size_t(L));
        SharesToDeposits::Room room;
        for (size_t r = 0; r < n; ++r) {
            std::copy_n(latents + r * size_t(L + D) + place_of_energies(), L, z.data() + r * size_t(L));
            context[r] = float(log_incident_(showers[r].energy));
        }
        energies_->run(count, z.data(), context.data(), x.data());
        for (size_t r = 0; r < n; ++r) {
            double* const e = energies.data() + r * size_t(L);
            of_layers_.restore(L, x.data() + r * size_t(L), showers[r].energy, e);
        }
        for (size_t r = 0; r < n; ++r) {
            std::copy_n(latents + r * size_t(L + D) + place_of_shapes(), D, z.data() + r * size_t(D));
            context[r * size_t(C)] = float(emphasis_ * log_incident_(showers[r].energy));
            for (int l = 0; l < L; ++l)
                context[r * size_t(C) + 1 + size_t(l)] = float(emphasis_ * log_layers_(energies[r * size_t(L) + size_t(l)]));
        }
        shapes_->run(count, z.data(), context.data(), x.data());
        const size_t V = size_t(info.voxels);
        for (size_t r = 0; r < n; ++r) {
            valid[r] = back_.restore(x.data() + r * size_t(D), energies.data() + r * size_t(L), deposits + r * V, room);
            if (!valid[r]) std::fill_n(deposits + r * V, V, 0.0f);
        }
    }

private:
    size_t place_of_energies() const { return shapes_first_ ? size_t(shapes_->features()) : 0; }
    size_t place_of_shapes() const { return shapes_first_ ? 0 : size_t(energies_->features()); }

    const Json& settings_;
    const std::unique_ptr<Flow> energies_, shapes_;
    LayerEnergies of_layers_;
    const std::string stream_;  // of the random numbers of the shares, which stand before those of the energies or behind them
    const bool shapes_first_;
    LogEnergy log_incident_, log_layers_;
    double emphasis_;
    SharesToDeposits back_;
};

}  // namespace

std::unique_ptr<Model> open_caloflow(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<CaloFlow>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
