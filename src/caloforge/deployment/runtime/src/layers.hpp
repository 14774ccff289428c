// What models that make one layer from those before it have in common: flows of the energies first.
#pragma once

#include "flows.hpp"
#include "voxels.hpp"

namespace caloforge::runtime {

// Layer energies from a flow of their own, given the incident energy.
class EnergyFlow {
public:
    EnergyFlow(const Tensors& tensors, const Json& settings, int layers)
        : flow_(open_flow(tensors, "energies", settings["flow"])), back_(settings), layers_(layers) {
        need(flow_->features() == layers && flow_->context() == 1, "the flow of the energies does not fit the layers");
    }
    void run(const float* z, double condition, double incident, double* energies) const {
        std::vector<float> x(static_cast<size_t>(layers_));
        const float context = float(condition);
        flow_->run(1, z, &context, x.data());
        back_.restore(layers_, x.data(), incident, energies);
    }

private:
    const std::unique_ptr<Flow> flow_;
    LayerEnergies back_;
    int layers_;
};

// The logit with a margin; see caloforge.representation.logit.
inline double logit(double x, double alpha) {
    const double p = alpha + (1 - 2 * alpha) * x;
    return std::log(p) - std::log1p(-p);
}

}  // namespace caloforge::runtime
