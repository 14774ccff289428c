// CaloINN (arXiv:2312.09290): shares of the voxels and fractions of the layer energies from one flow.
#include "flows.hpp"
#include "model.hpp"
#include "streams.hpp"
#include "voxels.hpp"

namespace caloforge::runtime {

namespace {

// Logarithms of shares and recursive fractions with relative noise to deposits; see caloforge.representation.log_shares.
class LogShares {
public:
    LogShares(const Json& settings, const std::vector<int64_t>& sizes)
        : whole_(settings["whole"].boolean()), width_(settings["width"].number()), alpha_(settings["alpha"].number()), sizes_(sizes) {
        need(width_ >= 0 && alpha_ > 0, "a setting is out of range");
        if (!whole_) return;
        int64_t all = 0;
        for (int64_t size : sizes) all += size;
        sizes_ = {all};
    }

    int64_t features() const {
        int64_t all = int64_t(sizes_.size());
        for (int64_t size : sizes_) all += size > 1 ? size : 0;
        return all;
    }

    bool restore(const float* logs, double incident, float* deposits, std::vector<double>& values) const {
        const size_t parts = sizes_.size();
        const float* const fractions = logs + features() - int64_t(parts);
        std::vector<double> energies(parts);
        double left = plain(fractions[0]) * incident;  // the first one may lie above 1
        bool finite = std::isfinite(fractions[0]);
        for (size_t l = 0; l + 1 < parts; ++l) {
            const double share = std::min(plain(fractions[l + 1]), 1.0);
            finite &= std::isfinite(fractions[l + 1]);
            energies[l] = left * share;
            left *= 1 - share;
        }
        energies[parts - 1] = left;
        for (size_t l = 0; l < parts; ++l) {
            const int64_t size = sizes_[l];
            values.assign(size_t(size), 1.0);
            double sum = 0;
            for (int64_t i = 0; i < size; ++i) {
                if (size > 1) {
                    finite &= std::isfinite(*logs);
                    values[size_t(i)] = plain(*logs++);
                }
                sum += values[size_t(i)];
            }
            // The tiny number is that of the Python package, on both sides as there: a layer without any share stays empty.
            for (int64_t i = 0; i < size; ++i) {
                *deposits = float(values[size_t(i)] / (sum + kTiny) * (energies[l] + kTiny));
                finite &= std::isfinite(*deposits++);
            }
        }
        return finite;
    }

private:
    static constexpr double kTiny = 1e-16;

    double plain(float log) const {
        const double value = std::exp(double(log)) - alpha_ - width_;
        return value >= width_ ? value : 0;
    }

    bool whole_;
    double width_, alpha_;
    std::vector<int64_t> sizes_;
};

class CaloINN : public VoxelModel {
public:
    CaloINN(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          flow_(open_flow(*tensors_, "flow", settings_["flow"])), log_incident_(settings_["log_incident"]),
          emphasis_(settings_["emphasis"].number()) {
        if (settings_["logarithms"].boolean()) {
            logs_ = std::make_unique<LogShares>(settings_["shapes"], layer_sizes);
        } else {
            energies_ = std::make_unique<LayerEnergies>(settings_["energies"]);
            shares_ = std::make_unique<SharesToDeposits>(settings_["shapes"], layer_sizes);
        }
        const int64_t features = logs_ ? logs_->features() : shares_->features() + info.layers;
        need(flow_->context() == 1 && flow_->features() == features, "the flow does not fit the layers");
    }

    int64_t latent_size(const Shower&) const override { return flow_->features(); }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        Stream(seed, "flow").normals(shower.number, shower.attempt, flow_->features(), out);
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const size_t n = size_t(count), D = size_t(flow_->features()), V = size_t(info.voxels), L = size_t(info.layers);
        std::vector<float> context(n), x(n * D);
        for (size_t r = 0; r < n; ++r) context[r] = float(emphasis_ * log_incident_(showers[r].energy));
        flow_->run(count, latents, context.data(), x.data());
        SharesToDeposits::Room room;
        std::vector<double> energies(L);
        for (size_t r = 0; r < n; ++r) {
            const float* const y = x.data() + r * D;
            if (logs_) {
                valid[r] = logs_->restore(y, showers[r].energy, deposits + r * V, room.values);
            } else {
                energies_->restore(int(L), y + (D - L), showers[r].energy, energies.data());
                valid[r] = shares_->restore(y, energies.data(), deposits + r * V, room);
            }
            if (!valid[r]) std::fill_n(deposits + r * V, V, 0.0f);
        }
    }

private:
    const Json& settings_;
    const std::unique_ptr<Flow> flow_;
    LogEnergy log_incident_;
    double emphasis_;
    std::unique_ptr<LayerEnergies> energies_;
    std::unique_ptr<SharesToDeposits> shares_;
    std::unique_ptr<LogShares> logs_;
};

}  // namespace

std::unique_ptr<Model> open_caloinn(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<CaloINN>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
