// iCaloFlow (arXiv:2305.11934) and its student: the first layer from one flow, every other one from a second, given the one before.
#include "layers.hpp"
#include "model.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

class ICaloFlow : public VoxelModel {
public:
    ICaloFlow(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          energies_(*tensors_, settings_["energies"], int(info.layers)), first_(open_flow(*tensors_, "first", settings_["first"])),
          log_incident_(settings_["log_incident"]), log_layers_(settings_["log_layers"]), back_(settings_["shapes"], {layer_sizes[0]}),
          emphasis_(settings_["emphasis"].number()), noise_(settings_["noise"].number()), reference_(settings_["reference"].number()),
          alpha_(settings_["alpha"].number()), cut_(settings_["shapes"]["cut"].number()), logits_(settings_["logits"].boolean()),
          multiplied_(settings_["shapes"]["postprocessing"].text() == "multiply") {
        for (int64_t size : layer_sizes) need(size == layer_sizes[0], "the layers are of different sizes");
        if (info.layers > 1) following_ = open_flow(*tensors_, "following", settings_["following"]);
        const int64_t n = first_->features(), context = 3 + layer_sizes[0] + info.layers - 1;
        need(n == back_.features() && first_->context() == 2 && reference_ > 0 && alpha_ > 0 && alpha_ < 0.5 &&
                 (!following_ || (following_->features() == n && following_->context() == context)),
             "the flows do not fit the layers");
    }

    int64_t latent_size(const Shower&) const override {
        return info.layers + int64_t(info.layers) * first_->features() + (info.layers - 1) * layer_sizes[0];
    }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        const int64_t L = info.layers, n = first_->features();
        Stream(seed, "energies").normals(shower.number, shower.attempt, L, out);
        Stream(seed, "first").normals(shower.number, shower.attempt, n, out + L);
        if (!following_) return;
        Stream(seed, "following").normals(shower.number, shower.attempt, (L - 1) * n, out + L + n);
        Uniforms uniform(Stream(seed, "noise"), shower.number, shower.attempt);
        out += L + L * n;
        for (int64_t k = 0; k < (L - 1) * layer_sizes[0]; ++k) out[k] = float(uniform.next());
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const size_t V = size_t(info.voxels);
        Room room;
        for (int64_t r = 0; r < count; ++r, latents += latent_size(showers[0]), deposits += V) {
            valid[r] = one(showers[r].energy, latents, deposits, room);
            if (!valid[r]) std::fill_n(deposits, V, 0.0f);
        }
    }

private:
    struct Room {
        SharesToDeposits::Room of_shares;
        std::vector<double> energies, noisy;
        std::vector<float> context, y;
    };

    double condition(double energy) const {
        if (!logits_) return emphasis_ * log_layers_(energy);
        return logit(unit_interval(energy / reference_), alpha_);
    }

    bool one(double incident, const float* latents, float* deposits, Room& room) const {
        const size_t L = size_t(info.layers), n = size_t(first_->features()), V = size_t(layer_sizes[0]);
        room.energies.resize(L);
        double* const e = room.energies.data();
        energies_.run(latents, log_incident_(incident), incident, e);
        if (multiplied_)
            for (size_t l = 0; l < L; ++l) e[l] = e[l] >= cut_ ? e[l] : 0;
        const double of_incident = emphasis_ * log_incident_(incident);
        const float begin[] = {float(of_incident), float(condition(e[0]) / (logits_ ? 4 : 1))};
        room.y.resize(n);
        first_->run(1, latents + L, begin, room.y.data());
        bool fine = back_.restore(room.y.data(), e, deposits, room.of_shares);
        const float *z = latents + L + n, *uniform = latents + L + L * n;
        // Energies would drown among the voxels; see caloforge.representation.conditions.
        const double times = logits_ ? 1 : 5, division = logits_ ? 1 : 14;
        for (size_t l = 1; l < L && fine; ++l, z += n, uniform += V) {
            room.noisy.resize(V);
            double sum = 0;
            for (size_t i = 0; i < V; ++i) sum += room.noisy[i] = room.of_shares.values[i] + noise_ * double(uniform[i]);
            room.context.assign(3 + V + L - 1, 0.0f);
            room.context[0] = float(times * of_incident);
            room.context[1] = float(times * condition(e[l]));
            room.context[2] = float(times * condition(e[l - 1]));
            for (size_t i = 0; i < V; ++i)
                room.context[3 + i] = float(logit(unit_interval(room.noisy[i] / (sum + 1e-16)), alpha_) / division);
            room.context[3 + V + l - 1] = float(times);
            following_->run(1, z, room.context.data(), room.y.data());
            fine = back_.restore(room.y.data(), e + l, deposits + l * V, room.of_shares);
        }
        return fine;
    }

    const Json& settings_;
    EnergyFlow energies_;
    std::unique_ptr<Flow> first_, following_;
    LogEnergy log_incident_, log_layers_;
    SharesToDeposits back_;
    double emphasis_, noise_, reference_, alpha_, cut_;
    bool logits_, multiplied_;
};

}  // namespace

std::unique_ptr<Model> open_icaloflow(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<ICaloFlow>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
