// C interface of ShowerFlow; caloforge.kernels.ops.showerflow calls it.
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

using caloforge::PackedShowerFlow;

// Numbers in the packed weights; what the plan is, shower_flow.hpp says. Zero for a flow with too many bins.
#define CALOFORGE_SHOWER_FLOW(S, NAME)                                                                                     \
    extern "C" int64_t caloforge_showerflow_numbers_##NAME(const int64_t* plan, int single) {                             \
        if (plan[3] > caloforge::kMaxBins) return 0;                                                                       \
        return int64_t(PackedShowerFlow<S>(plan, {}, single != 0, nullptr).numbers);                                       \
    }                                                                                                                      \
    extern "C" void caloforge_showerflow_pack_##NAME(const int64_t* plan, int single, const S* const* weights,             \
                                                     S* packed) {                                                          \
        caloforge::pack_shower_flow(PackedShowerFlow<S>(plan, {}, single != 0, packed), weights);                          \
    }                                                                                                                      \
    extern "C" int caloforge_showerflow_sample_##NAME(const int64_t* plan, int single, double bound, double min_size,      \
                                                      double min_slope, double slope_shift, double margin,                 \
                                                      int64_t numbers, const S* packed, int64_t count, const S* z,         \
                                                      const S* context, S* x, int threads) {                               \
        if (plan[3] > caloforge::kMaxBins) return 1;                                                                       \
        const PackedShowerFlow<S> flow(plan, {int(plan[3]), bound, min_size, min_slope, slope_shift, margin}, single != 0, \
                                       packed);                                                                            \
        if (int64_t(flow.numbers) != numbers) return 2;                                                                    \
        caloforge::sample(flow, count, z, context, x, threads);                                                            \
        return 0;                                                                                                          \
    }

CALOFORGE_SHOWER_FLOW(float, f32)
CALOFORGE_SHOWER_FLOW(double, f64)
