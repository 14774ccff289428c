// C interface of ShowerFlow; caloforge.nn.native loads it through ctypes.
#include "parallel.hpp"
#include "shower_flow.hpp"

namespace caloforge {

template <class S>
void sample(const PackedShowerFlow<S>& flow, int64_t count, const S* z, const S* context, S* x, int threads) {
    const ShowerFlowShape& s = flow.shape;
    if (!flow.tile) {
        SingleShowerFlow<S> single(flow);
        for (int64_t r = 0; r < count; ++r) single.run(z + r * s.features, context + r * s.context, x + r * s.features);
        return;
    }
    parallel(count, TileShowerFlow<S>::most_rows, threads, [&](int64_t first, int64_t end) {
        TileShowerFlow<S> tile(flow);
        for (; first < end; first += tile.most_rows)
            tile.run(int(std::min<int64_t>(tile.most_rows, end - first)), z + first * s.features, context + first * s.context,
                     x + first * s.features);
    });
}

}  // namespace caloforge

using caloforge::LinearRationalShape;
using caloforge::PackedShowerFlow;
using caloforge::ShowerFlowShape;

#define CALOFORGE_SHOWER_FLOW(S, NAME)                                                                                    \
    extern "C" void* caloforge_showerflow_new_##NAME(int features, int context, int steps, const int64_t* last, int tile, \
                                                     int bins, double bound, double min_size, double min_slope,           \
                                                     double slope_shift, double margin) {                                 \
        const LinearRationalShape spline{bins, bound, min_size, min_slope, slope_shift, margin};                          \
        auto* flow = new PackedShowerFlow<S>(ShowerFlowShape{features, context, spline}, steps, tile != 0);               \
        flow->last.assign(last, last + features);                                                                         \
        return flow;                                                                                                      \
    }                                                                                                                     \
    extern "C" void caloforge_showerflow_free_##NAME(void* flow) { delete static_cast<PackedShowerFlow<S>*>(flow); }      \
    extern "C" void caloforge_showerflow_pack_##NAME(void* flow, int position, int spline, const int64_t* source,         \
                                                     int hidden, const S* const* weights, const S* const* biases) {       \
        static_cast<PackedShowerFlow<S>*>(flow)->pack(position, spline != 0, source, hidden, weights, biases);            \
    }                                                                                                                     \
    extern "C" void caloforge_showerflow_sample_##NAME(const void* flow, int64_t count, const S* z, const S* context,     \
                                                       S* x, int threads) {                                               \
        caloforge::sample(*static_cast<const PackedShowerFlow<S>*>(flow), count, z, context, x, threads);                 \
    }

CALOFORGE_SHOWER_FLOW(float, f32)
CALOFORGE_SHOWER_FLOW(double, f64)
