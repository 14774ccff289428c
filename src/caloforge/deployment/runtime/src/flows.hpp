// The networks of a model: plan and weights from the file, packed for the kernels, which are those of the Python package.
#pragma once

#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dense.hpp"
#include "packed_flow.hpp"
#include "point_network.hpp"
#include "shower_flow.hpp"
#include "json.hpp"
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

constexpr int64_t kLargest = 1 << 22;  // of any size in a plan

// Weights and biases of one network, in the order in which the kernels take them.
class Weights {
public:
    Weights(const Tensors& tensors, const std::string& name) : tensors_(tensors), name_(name) {}

    const float* take(int64_t count) {
        rooms_.emplace_back();
        const std::string number = std::to_string(pointers_.size());
        pointers_.push_back(tensors_.floats(name_ + ".weights." + number, count, rooms_.back()));
        return pointers_.back();
    }
    void take(int64_t rows, int64_t columns) {
        take(rows * columns);
        take(rows);
    }
    const float* const* data() const { return pointers_.data(); }

private:
    const Tensors& tensors_;
    const std::string name_;
    std::list<std::vector<float>> rooms_;  // which stay where they are
    std::vector<const float*> pointers_;
};

void need_sizes(const std::vector<int64_t>& plan, size_t count);
void need_places(const int64_t* from, int64_t count, int64_t limit);

// A flow of vectors, from latents to data.
class Flow {
public:
    virtual ~Flow() = default;
    virtual int features() const = 0;
    virtual int context() const = 0;
    virtual void run(int64_t count, const float* z, const float* context, float* x) const = 0;
};

// One of the two below, as its settings say.
std::unique_ptr<Flow> open_flow(const Tensors& tensors, const std::string& name, const Json& settings);

// The slow direction of an autoregressive flow: latents to data (or the reverse, for a flow that reads latents).
class AutoregressiveSampler : public Flow {
public:
    // `spline`: bound, least width, height and derivative.
    AutoregressiveSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline);
    int features() const override { return int(plan_[0]); }
    int context() const override { return int(plan_[1]); }
    void run(int64_t count, const float* z, const float* context, float* x) const override;

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

// A flow that makes data in one pass through each of its networks, a shower at a time: coupling flows (arXiv:1906.04032) and
// inverse autoregressive ones (arXiv:1606.04934).
class OnePassSampler : public Flow {
public:
    OnePassSampler(const Tensors& tensors, const std::string& name, const std::vector<double>& spline);
    int features() const override { return shape_.features; }
    int context() const override { return shape_.context; }
    void run(int64_t count, const float* z, const float* context, float* x) const override;

private:
    struct Sizes {
        int features, context, steps, bins;
        bool cubic, whole_rows, autoregressive;
        int layers, hidden, seen;  // of a network; how many of the values it sees
        int moved() const { return autoregressive ? features : features - seen; }
    };
    struct Step {
        std::vector<int> source;
        std::vector<Dense<float>> layers;
        Dense<float> context;  // of autoregressive ones
        std::vector<float> scale, shift;
    };
    struct Room;
    int parameters() const { return shape_.cubic ? 2 * shape_.bins + 2 : 3 * shape_.bins - 1; }
    void splines(const float* raw, float* values, Room& room) const;
    void step(const Step& step, const float* context, float* x, Room& room) const;

    Sizes shape_{};
    SplineShape spline_{};
    std::vector<Step> steps_;
    Packed numbers_;
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
