// The networks of a model: plan and weights from the file, packed for the kernels, which are those of the Python package.
#pragma once

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "packed_flow.hpp"
#include "point_network.hpp"
#include "shower_flow.hpp"
#include "tensors.hpp"

namespace caloforge::runtime {

// Packed weights, aligned for vectors.
class Packed {
public:
    Packed() = default;
    explicit Packed(size_t count);
    Packed(Packed&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
    Packed& operator=(Packed&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }
    ~Packed() { std::free(data_); }
    float* data() const { return data_; }

private:
    float* data_ = nullptr;
};

// The slow direction of an autoregressive flow: latents to data (or the reverse, for a flow that reads latents).
class AutoregressiveSampler {
public:
    // `spline`: bound, least width, height and derivative.
    AutoregressiveSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline);
    int features() const { return int(plan_[0]); }
    int context() const { return int(plan_[1]); }
    void run(int64_t count, const float* z, const float* context, float* x) const;

private:
    struct Laid {
        Packed numbers;
        std::unique_ptr<PackedFlow<float>> flow;
    };
    Laid laid_out(Layout layout) const;

    const Tensors& tensors_;
    const std::string name_;
    std::vector<int64_t> plan_;
    SplineShape spline_;
    Laid single_;
    mutable std::once_flag asked_;  // for many showers at once
    mutable Laid tile_;
};

// ShowerFlow of CaloClouds.
class ShowerFlowSampler {
public:
    // `spline`: bound, least size, least slope, shift of the slope, margin.
    ShowerFlowSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline);
    int features() const { return int(plan_[0]); }
    int context() const { return int(plan_[1]); }
    void run(int64_t count, const float* z, const float* context, float* x) const;

private:
    std::vector<int64_t> plan_;
    Packed numbers_;
    std::unique_ptr<PackedShowerFlow<float>> flow_;
};

// PointWise Net of CaloClouds.
class PointSampler {
public:
    PointSampler(const Tensors& tensors, const std::string& name);
    const PackedPointNetwork<float>& network() const { return *network_; }

private:
    std::vector<int64_t> plan_;
    Packed numbers_;
    std::unique_ptr<PackedPointNetwork<float>> network_;
};

}  // namespace caloforge::runtime
