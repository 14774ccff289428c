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
    // Latents of some showers, one behind the other and each as long as `latent_size` says, to deposits; whether each is valid.
    // Others are empty.
    virtual void decode(int64_t count, const Shower* showers, const float* latents, float* deposits, uint8_t* valid) const = 0;
};

class PointModel : public Model {
public:
    using Model::Model;
    virtual int64_t most_points(double energy) const = 0;
    // One attempt at a shower, with its own random numbers. Returns how many points it has, and writes them where there is room for
    // all of them; 0 of a shower that is not valid.
    virtual int64_t generate(uint64_t seed, const Shower& shower, int64_t room, float* points, uint8_t* valid) const {
        std::vector<float> numbers(size_t(latent_size(shower)));
        latents(seed, shower, numbers.data());
        return decode(shower, numbers.data(), room, points, valid);
    }
    // The same from given latents.
    virtual int64_t decode(const Shower& shower, const float* latents, int64_t room, float* points, uint8_t* valid) const = 0;
};

// One function for each kind; the list of kinds is in model.cpp.
std::unique_ptr<Model> open_caloflow(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_caloinn(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_icaloflow(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_l2lflows(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_caloclouds(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_gflash(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_parametrisation(Json description, std::unique_ptr<Tensors> tensors);
std::unique_ptr<Model> open_library(Json description, std::unique_ptr<Tensors> tensors);
// Around another one; see rejection.cpp.
std::unique_ptr<Model> open_rejecting(Json description, std::unique_ptr<Tensors> tensors, std::unique_ptr<Model> inner);

std::unique_ptr<Model> open_model(const std::string& directory);

}  // namespace caloforge::runtime
