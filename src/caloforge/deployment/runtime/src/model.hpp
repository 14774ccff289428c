// What every kind of model is to the interface: latents and their decoding, for a few showers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "caloforge/runtime.h"
#include "json.hpp"
#include "tensors.hpp"

namespace caloforge::runtime {

// Which shower, under which conditions; `direction` has the precision in which models know it.
struct Shower {
    double energy;
    float direction[3];
    uint64_t number, attempt;
};

struct LayerPlace {
    double front, back;
};

class Model {
public:
    Model(Json description, std::unique_ptr<Tensors> tensors);
    virtual ~Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    cf_info info{};
    std::vector<int64_t> layer_sizes;
    std::vector<LayerPlace> depths;  // none if they are not known
    std::vector<double> cells;       // of each voxel: outer and inner coordinate, low and high; none for points
    std::vector<uint8_t> polar;      // of each layer: coordinates are alpha and r instead of x and y

    // Whether the model was trained for this.
    bool knows(const cf_particle& particle) const;

    virtual int64_t latent_size(const Shower& shower) const = 0;
    virtual void latents(uint64_t seed, const Shower& shower, float* out) const = 0;

protected:
    const Json description_;
    const std::unique_ptr<Tensors> tensors_;
};

class VoxelModel : public Model {
public:
    using Model::Model;
    // Latents of some showers, one behind the other, to deposits; whether each is valid. Others are empty.
    virtual void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const = 0;
};

class PointModel : public Model {
public:
    using Model::Model;
    virtual int64_t most_points(double energy) const = 0;
    // What the first latents decide: numbers of points and whether the shower is valid; -1 if it has no room for its points.
    virtual int64_t begin(const Shower& shower, const float* latents, std::vector<float>& raw, uint8_t* valid) const = 0;
    // How many latents `begin` needs; those of the points follow, four each.
    virtual int64_t first_latents() const = 0;
    virtual std::string point_stream() const = 0;
    virtual void first(uint64_t seed, const Shower& shower, float* out) const = 0;
    virtual void finish(const Shower& shower, const std::vector<float>& raw, const float* normals, int64_t count,
                        float* points) const = 0;
};

// One function for each kind; the list of kinds is in model.cpp.
std::unique_ptr<Model> open_caloflow(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_caloinn(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_icaloflow(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_l2lflows(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_caloclouds(Json description, std::unique_ptr<Tensors> tensors);

std::unique_ptr<Model> open_model(const std::string& directory);

}  // namespace caloforge::runtime
