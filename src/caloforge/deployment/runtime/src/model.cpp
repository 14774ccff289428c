#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "blake2b.hpp"

namespace caloforge::runtime {

namespace {

constexpr int64_t kFormat = 2;  // of runtime.json
constexpr size_t kLongest = size_t(1) << 28;  // JSON

using Opener = std::unique_ptr<Model> (*)(Json, std::unique_ptr<Tensors>);
constexpr std::pair<const char*, Opener> kKinds[] = {
    {"caloflow", open_caloflow},
    {"caloflow-student", open_caloflow},
    {"caloinn", open_caloinn},
    {"caloinn-factorised", open_caloflow},
    {"icaloflow", open_icaloflow},
    {"icaloflow-student", open_icaloflow},
    {"l2lflows", open_l2lflows},
    {"caloclouds2", open_caloclouds},
    {"caloclouds3", open_caloclouds},
    {"gflash", open_gflash},
    {"pca-parametrisation", open_parametrisation},
    {"shower-library", open_library},
};

template <size_t N>
void copy_text(const std::string& text, char (&to)[N]) {
    need(text.size() < N, "a name is too long");
    std::memcpy(to, text.c_str(), text.size() + 1);
}

}  // namespace

Model::Model(Json description, std::unique_ptr<Tensors> tensors) : description_(std::move(description)), tensors_(std::move(tensors)) {
    const Json& d = description_;
    copy_text(d["kind"].text(), info.kind);
    copy_text(d["model_sha256"].text(), info.weights);
    info.points = d["points"].boolean();
    info.particle = int32_t(d["particle"].whole(-2147483647, 2147483647));
    const std::vector<double> energies = d["incident_energy"].numbers(2);
    need(energies[0] > 0 && energies[0] <= energies[1], "the range of energies is empty");
    std::copy_n(energies.begin(), 2, info.energy);
    info.any_direction = !d["direction"].is_null();
    need(!info.any_direction || d["direction"].list().size() == 2, "the range of directions has no two ends");
    for (size_t end = 0; end < 2; ++end) {
        const std::vector<double> of_end = info.any_direction ? d["direction"].list()[end].numbers(3) : std::vector<double>{0, 0, 1};
        std::copy_n(of_end.begin(), 3, info.direction[end]);
    }
    for (const Json& size : d["layer_sizes"].list()) layer_sizes.push_back(size.whole(0, int64_t(1) << 30));
    need(!layer_sizes.empty() && layer_sizes.size() <= 1000000, "there are no layers");
    info.layers = int32_t(layer_sizes.size());
    for (int64_t size : layer_sizes) {
        need(info.points ? size == 0 : size > 0, "a layer has a wrong number of voxels");
        info.voxels += size;
    }
    if (!d["depths"].is_null()) {
        need(d["depths"].list().size() == layer_sizes.size(), "there are not as many depths as layers");
        for (const Json& layer : d["depths"].list()) depths.push_back({layer.numbers(2)[0], layer.numbers(2)[1]});
    }
    if (!info.points) {
        for (const Json& layer : d["polar"].list()) polar.push_back(layer.boolean());
        need(polar.size() == layer_sizes.size(), "there are not as many grids as layers");
        cells = tensors_->doubles("cells", 4 * info.voxels);
    }
}

bool Model::knows(const cf_particle& particle) const {
    const double low = info.energy[0] * (1 - 1e-6), high = info.energy[1] * (1 + 1e-6);
    if (!(particle.energy >= low && particle.energy <= high) || particle.pdg != info.particle) return false;
    for (int k = 0; k < 3; ++k) {
        const double component = double(float(particle.direction[k]));
        if (!info.any_direction && k < 2) continue;
        if (!(component >= info.direction[0][k] - 1e-6 && component <= info.direction[1][k] + 1e-6)) return false;
    }
    return true;
}

// The hash of the weights in the Python package's own description of a model, if there is one in the directory.
static std::string weights_of_package(const std::string& directory) {
    const std::string where = directory + "/model.json";
    if (!MappedFile::exists(where)) return {};
    const MappedFile file(where);
    need(file.text().size() < kLongest, "'" + where + "' is too large");
    return Json::parse(file.text())["weights_sha256"].text();
}

std::unique_ptr<Model> open_model(const std::string& directory) {
    const std::string where = directory + "/runtime.json", of_package = weights_of_package(directory);
    if (!of_package.empty() && !MappedFile::exists(where))
        throw Failure(CF_UNSUPPORTED, "'" + directory + "' is a model of the Python package; 'caloforge export " + directory +
                                          " --target cpp' makes one that this library opens");
    Json description;
    {
        const MappedFile file(where);
        need(file.text().size() < kLongest, "'" + where + "' is too large");
        // The last entry holds the hash of all before it.
        const std::string_view text = file.text();
        const size_t end = text.rfind("\"digest\"");
        need(end != std::string_view::npos, "'" + where + "' is truncated");
        description = Json::parse(text);
        need(description["digest"].text() == digest_of(text.data(), end), "'" + where + "' was changed");
    }
    if (description["format"].number() != kFormat)
        throw Failure(CF_VERSION, "'" + where + "' has another format than this library reads; export the model again");
    need(of_package.empty() || of_package == description["model_sha256"].text(),
         "the model in '" + directory + "' was trained again after its export");
    const std::string& kind = description["kind"].text();
    auto tensors = std::make_unique<Tensors>(directory + "/runtime.safetensors");
    const std::string_view text = tensors->text();
    need(digest_of(text.data(), text.size()) == description["weights"].text(),
         "'" + directory + "/runtime.safetensors' is not the file that runtime.json describes");
    for (const auto& [name, open] : kKinds) {
        if (kind != name) continue;
        std::unique_ptr<Model> opened = open(description, std::move(tensors));
        if (!description.has("rejection")) return opened;
        return open_rejecting(std::move(description), std::make_unique<Tensors>(directory + "/runtime.safetensors"), std::move(opened));
    }
    throw Failure(CF_UNSUPPORTED, "models of the kind '" + kind + "' are not known to this library");
}

}  // namespace caloforge::runtime
