// L2LFlows (arXiv:2302.11594): layer energies, then the voxels of each layer from a flow that is told those of the layers before it.
#include "layers.hpp"
#include "model.hpp"
#include "streams.hpp"

namespace caloforge::runtime {

namespace {

// A linear layer with a ReLU behind it.
class Rectified {
public:
    Rectified(Weights& weights, int inputs, int outputs) : layer_(Dense<float>::shaped(inputs, outputs, false)) {
        numbers_ = Packed(layer_.numbers());
        layer_.place(numbers_.data());
        const float *w = weights.take(int64_t(inputs) * outputs), *b = weights.take(outputs);
        layer_.pack(w, b);
    }
    std::vector<float> run(const std::vector<float>& in) const {
        Inputs<float> inputs(layer_.inputs);
        inputs.add_positive(in.data(), layer_.inputs);  // none is negative
        std::vector<float> out(size_t(layer_.padded()));
        dense_single(layer_, inputs, out.data());
        out.resize(size_t(layer_.outputs));
        for (float& value : out) value = value < 0 ? 0 : value;
        return out;
    }
    int outputs() const { return layer_.outputs; }

private:
    Dense<float> layer_;
    Packed numbers_;
};

// The flow of one layer, or of several that share it.
struct LayerFlow {
    std::unique_ptr<Flow> flow;
    std::unique_ptr<SharesToDeposits> back;
    std::unique_ptr<Rectified> first, second;  // sum up the layers before; none if there are none
    std::vector<float> places;                 // numbers of each layer that shares the flow
    int each = 0, seen = 0;

    LayerFlow(const Tensors& tensors, const std::string& name, const Json& settings)
        : flow(open_flow(tensors, name, settings["flow"])),
          back(std::make_unique<SharesToDeposits>(settings["shares"], std::vector<int64_t>{settings["size"].whole(2, kLargest)})),
          each(int(settings["each"].whole(0, kLargest))), seen(int(settings["seen"].whole(0, kLargest))) {
        const int64_t sharing = settings["sharing"].whole(1, kLargest);
        int64_t context = 2 + each;
        if (seen) {
            Weights weights(tensors, name + ".embedding");
            const int hidden = int(settings["hidden"].whole(1, kLargest)), made = int(settings["made"].whole(1, kLargest));
            first = std::make_unique<Rectified>(weights, seen, hidden);
            second = std::make_unique<Rectified>(weights, hidden, made);
            context += made;
        }
        if (each) {
            Weights weights(tensors, name + ".place");
            const float* numbers = weights.take(sharing * each);
            places.assign(numbers, numbers + sharing * each);
        }
        need(flow->context() == context && flow->features() == back->features(), "the flow of a layer does not fit it");
    }
};

class L2LFlows : public VoxelModel {
public:
    L2LFlows(Json description, std::unique_ptr<Tensors> tensors)
        : VoxelModel(std::move(description), std::move(tensors)), settings_(description_["settings"]),
          energies_(*tensors_, settings_["energies"], int(info.layers)), log_incident_(settings_["log_incident"]),
          log_layers_(settings_["log_layers"]), emphasis_(settings_["emphasis"].number()), least_(settings_["least"].number()),
          shift_(settings_["shift"].numbers(size_t(info.layers))), previous_(settings_["previous"].whole(0, kLargest)) {
        std::map<std::string, size_t> found;
        for (const auto& [name, entry] : settings_["flows"].object()) {
            found[name] = flows_.size();
            flows_.emplace_back(*tensors_, name, entry);
        }
        need(least_ > 0 && settings_["layers"].list().size() == layer_sizes.size(), "the layers are not as many as they are");
        for (const Json& entry : settings_["layers"].list()) {
            const size_t l = layers_.size();
            Layer layer{entry["name"].text(), -1, 0, 0};
            if (const std::string& flow = entry["flow"].text(); !flow.empty()) {
                need(found.count(flow), "a flow is missing");
                layer.flow = int(found[flow]);
                const LayerFlow& own = flows_[size_t(layer.flow)];
                layer.place = entry["place"].whole(0, kLargest);
                layer.missing = entry["missing"].whole(0, kLargest);
                int64_t seen = layer.missing;
                for (size_t k = first_seen(l); k < l; ++k) seen += layer_sizes[k];
                need(seen == own.seen && (own.each == 0 || (layer.place + 1) * own.each <= int64_t(own.places.size())) &&
                         own.back->size() == layer_sizes[l],
                     "the flow of a layer does not fit it");
            } else {
                need(layer_sizes[l] == 1, "a flow is missing");
            }
            layers_.push_back(layer);
        }
    }

    int64_t latent_size(const Shower&) const override {
        int64_t all = info.layers;
        for (const Layer& layer : layers_) all += layer.flow < 0 ? 0 : flows_[size_t(layer.flow)].flow->features();
        return all;
    }

    void latents(uint64_t seed, const Shower& shower, float* out) const override {
        Stream(seed, "energies").normals(shower.number, shower.attempt, info.layers, out);
        out += info.layers;
        for (const Layer& layer : layers_) {
            if (layer.flow < 0) continue;
            const int64_t n = flows_[size_t(layer.flow)].flow->features();
            Stream(seed, layer.name).normals(shower.number, shower.attempt, n, out);
            out += n;
        }
    }

    void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const override {
        const size_t V = size_t(info.voxels);
        for (int64_t r = 0; r < count; ++r, latents += latent_size(showers[0]), deposits += V) {
            valid[r] = one(showers[r].energy, latents, deposits);
            if (!valid[r]) std::fill_n(deposits, V, 0.0f);
        }
    }

private:
    struct Layer {
        std::string name;
        int flow;
        int64_t place, missing;
    };

    size_t first_seen(size_t layer) const { return layer - std::min(layer, size_t(previous_)); }

    bool one(double incident, const float* z, float* deposits) const {
        const size_t L = size_t(info.layers);
        std::vector<double> energies(L);
        std::vector<float> seen, y;       // of all layers so far, one behind the other
        std::vector<size_t> starts{0};
        energies_.run(z, log_incident_(incident), incident, energies.data());
        z += L;
        SharesToDeposits::Room room;
        for (size_t l = 0; l < L; ++l) {
            const Layer& layer = layers_[l];
            if (layer.flow < 0) {
                const double energy = std::max(energies[l] - shift_[l], 0.0);
                if (!std::isfinite(energies[l])) return false;
                room.values.assign(1, energy >= least_ ? energy : 0.0);
                *deposits++ = float(room.values[0]);
            } else {
                const LayerFlow& own = flows_[size_t(layer.flow)];
                std::vector<float> context{float(emphasis_ * log_incident_(incident)), float(emphasis_ * log_layers_(energies[l]))};
                if (own.each) context.insert(context.end(), own.places.begin() + layer.place * own.each, own.places.begin() + (layer.place + 1) * own.each);
                if (own.first) {
                    std::vector<float> before(size_t(layer.missing), 0.0f);
                    before.insert(before.end(), seen.begin() + ptrdiff_t(starts[first_seen(l)]), seen.end());
                    const std::vector<float> made = own.second->run(own.first->run(before));
                    context.insert(context.end(), made.begin(), made.end());
                }
                y.resize(size_t(own.flow->features()));
                own.flow->run(1, z, context.data(), y.data());
                z += own.flow->features();
                if (!own.back->restore(y.data(), &energies[l], deposits, room)) return false;
                deposits += layer_sizes[l];
            }
            for (double value : room.values) seen.push_back(float(std::log1p(value / least_) / 5));
            starts.push_back(seen.size());
        }
        return true;
    }

    const Json& settings_;
    EnergyFlow energies_;
    LogEnergy log_incident_, log_layers_;
    double emphasis_, least_;
    std::vector<double> shift_;
    int64_t previous_;
    std::vector<LayerFlow> flows_;
    std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> open_l2lflows(Json description, std::unique_ptr<Tensors> tensors) {
    return std::make_unique<L2LFlows>(std::move(description), std::move(tensors));
}

}  // namespace caloforge::runtime
