// Showers that a classifier takes for generated ones are drawn again: around any model of voxels. What it reads and computes is
// that of caloforge.parts.shower_features and caloforge.aids.rejection, in 64-bit numbers as there.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

constexpr int kWhole = 5, kPlaces = 5;  // features of the whole shower, and those of a layer that are no ranks and no counts
constexpr double kLeastVariance = 1e-2, kLeastShare = 1e-4;

struct Linear {
    std::vector<double> weight, bias;  // (out, in) and (out)

    void run(const std::vector<double>& x, std::vector<double>& y) const {
        y.resize(bias.size());
        for (size_t o = 0; o < bias.size(); ++o) {
            const double* const w = weight.data() + o * x.size();
            // Four sums: one alone would wait for itself.
            double sum[4] = {};
            size_t i = 0;
            for (; i + 4 <= x.size(); i += 4)
                for (size_t k = 0; k < 4; ++k) sum[k] += w[i + k] * x[i + k];
            for (; i < x.size(); ++i) sum[0] += w[i] * x[i];
            y[o] = bias[o] + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
    }
};

class Rejecting : public VoxelModel {
public:
    Rejecting(Json description, std::unique_ptr<Tensors> tensors, std::unique_ptr<VoxelModel> inner)
        : VoxelModel(std::move(description), std::move(tensors)), inner_(std::move(inner)) {
        const Json& own = description_["rejection"];
        cut_ = own["cut"].number(), log_most_ = std::log(own["most"].number());
        for (const Json& step : own["steps"].list()) steps_.push_back(step.number());
        ranks_ = int(own["ranks"].whole(1, 1000));
        need(std::isfinite(log_most_) && !steps_.empty() && steps_[0] > 0, "the classifier has wrong settings");
        const auto V = int64_t(info.voxels);
        x_ = tensors_->doubles("rejection.x", V), y_ = tensors_->doubles("rejection.y", V);
        const auto features = int64_t(kWhole + layer_sizes.size() * (kPlaces + size_t(ranks_) + steps_.size()));
        centre_ = tensors_->doubles("rejection.centre", features), scale_ = tensors_->doubles("rejection.scale", features);
        for (double scale : scale_) need(scale > 0, "a feature has no scale");
        const int64_t hidden = own["hidden"].whole(1, 1000000), sizes[] = {features, hidden, hidden, 1};
        networks_.resize(size_t(own["networks"].whole(1, 1000)));
        for (size_t n = 0; n < networks_.size(); ++n)
            for (size_t k = 0; k < 3; ++k) {
                const std::string name = "rejection." + std::to_string(n) + "." + std::to_string(k);
                networks_[n].push_back({tensors_->doubles(name + ".weight", sizes[k + 1] * sizes[k]), tensors_->doubles(name + ".bias", sizes[k + 1])});
            }
    }

    // The model's own numbers, and behind them a uniform one in the room of two.
    int64_t latent_size(const Shower& shower) const override { return inner_->latent_size(shower) + 2; }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        inner_->latents(seed, shower, out);
        Uniforms(Stream(seed, "rejection"), shower.number, shower.attempt).fill(1, out + inner_->latent_size(shower));
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        std::vector<float> own;
        std::vector<double> chance;
        for (int64_t r = 0; r < count; ++r) {
            const int64_t size = inner_->latent_size(showers[r]);
            own.insert(own.end(), latents, latents + size);
            chance.push_back(uniform_at(latents + size, 0));
            latents += size + 2;
        }
        inner_->decode(count, showers, own.data(), deposits, valid);
        std::vector<double> room, features, hidden, next;
        for (int64_t r = 0; r < count; ++r) {
            if (!valid[r]) continue;
            read(showers[r], deposits + r * int64_t(info.voxels), room, features);
            double logarithm = 0;
            for (const std::vector<Linear>& network : networks_) {
                hidden = features;
                for (size_t k = 0; k < network.size(); ++k) {
                    network[k].run(hidden, next);
                    if (k + 1 < network.size())
                        for (double& value : next) value /= 1 + std::exp(-value);
                    hidden.swap(next);
                }
                logarithm += hidden[0];
            }
            const double stays = std::min(1.0, std::exp(logarithm / double(networks_.size()) - log_most_));
            // Something that is no number stays nowhere.
            valid[r] = chance[size_t(r)] < stays;
        }
    }

private:
    void read(const Shower& shower, const float* deposits, std::vector<double>& room, std::vector<double>& out) const {
        const double least = steps_[0];
        out.assign(kWhole, 0);
        double all = 0;
        size_t first = 0;
        for (int64_t size : layer_sizes) {
            const auto n = size_t(size);
            room.assign(deposits + first, deposits + first + n);
            double sum = 0, mean[2] = {}, variance[2] = {};
            for (size_t i = 0; i < n; ++i) {
                if (!(room[i] >= cut_)) room[i] = 0;
                sum += room[i];
                mean[0] += room[i] * x_[first + i], mean[1] += room[i] * y_[first + i];
            }
            const double known = sum > 0 ? sum : 1;
            mean[0] /= known, mean[1] /= known;
            for (size_t i = 0; i < n; ++i) {
                const double dx = x_[first + i] - mean[0], dy = y_[first + i] - mean[1];
                variance[0] += room[i] * dx * dx, variance[1] += room[i] * dy * dy;
            }
            out.push_back(std::log(sum + least));
            for (int k = 0; k < 2; ++k) out.insert(out.end(), {mean[k], std::log(variance[k] / known + kLeastVariance)});
            std::vector<double> counts(steps_.size());
            for (double energy : room)
                for (size_t k = 0; k < steps_.size() && energy >= steps_[k]; ++k) ++counts[k];
            const size_t sorted = std::min(n, size_t(ranks_));
            std::partial_sort(room.begin(), room.begin() + std::ptrdiff_t(sorted), room.end(), std::greater<>());
            for (size_t k = 0; k < size_t(ranks_); ++k) out.push_back(std::log((k < sorted ? room[k] / known : 0) + kLeastShare));
            for (double number : counts) out.push_back(std::log1p(number));
            all += sum;
            first += n;
        }
        out[0] = std::log(shower.energy), out[1] = std::log((all + least) / shower.energy);
        for (size_t k = 0; k < 3; ++k) out[2 + k] = double(shower.direction[k]);
        for (size_t k = 0; k < out.size(); ++k) out[k] = std::asinh((out[k] - centre_[k]) / scale_[k]);
    }

    const std::unique_ptr<VoxelModel> inner_;
    double cut_ = 0, log_most_ = 0;
    int ranks_ = 0;
    std::vector<double> steps_, x_, y_, centre_, scale_;
    std::vector<std::vector<Linear>> networks_;
};

}  // namespace

std::unique_ptr<Model> open_rejecting(Json description, std::unique_ptr<Tensors> tensors, std::unique_ptr<Model> inner) {
    auto* const voxels = dynamic_cast<VoxelModel*>(inner.get());
    need(voxels != nullptr, "only showers on voxels can be judged");
    inner.release();
    return std::make_unique<Rejecting>(std::move(description), std::move(tensors), std::unique_ptr<VoxelModel>(voxels));
}

}  // namespace caloforge::runtime
