// C interface of the autoregressive solve; caloforge.kernels.ops.autoregressive calls it.
#include <atomic>
#include <thread>

#include "single_inverse.hpp"
#include "tile_inverse.hpp"

namespace caloforge {

constexpr int kMostVectors = 16;  // of showers in one tile

template <class S>
void invert_singly(const PackedFlow<S>& flow, int64_t count, const S* z, const S* context, S* x, S* logdet) {
    SingleInverse<S> single(flow);
    for (int64_t r = 0; r < count; ++r)
        logdet[r] = single.run(z + r * flow.shape.features, context + r * flow.shape.context, x + r * flow.shape.features);
}

template <class S>
void invert_tiles(const PackedFlow<S>& flow, int64_t count, const S* z, const S* context, S* x, S* logdet, int threads) {
    const int64_t vectors = (count + kLanes<S> - 1) / kLanes<S>;
    const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(threads, vectors));
    // Tiles of equal size, a multiple of the workers in number, so that no worker waits for another.
    int64_t tiles = (vectors + kMostVectors - 1) / kMostVectors;
    tiles = std::min((tiles + workers - 1) / workers * workers, vectors);
    std::atomic<int64_t> next{0};
    auto work = [&] {
        TileInverse<S> tile(flow, int((vectors + tiles - 1) / tiles));
        for (int64_t k = next++; k < tiles; k = next++) {
            const int64_t first = vectors * k / tiles * kLanes<S>;
            const int64_t end = std::min(count, vectors * (k + 1) / tiles * kLanes<S>);
            tile.run(int(end - first), z + first * flow.shape.features, context + first * flow.shape.context,
                     x + first * flow.shape.features, logdet + first);
        }
    };
    std::vector<std::thread> helpers;
    for (int64_t k = 1; k < workers; ++k) helpers.emplace_back(work);
    work();
    for (auto& helper : helpers) helper.join();
}

}  // namespace caloforge

using caloforge::Layout;
using caloforge::PackedFlow;

// Numbers in the packed weights; what the plan is, packed_flow.hpp says. Zero for a flow with too many bins.
#define CALOFORGE_AUTOREGRESSIVE(S, NAME)                                                                                  \
    extern "C" int64_t caloforge_autoregressive_numbers_##NAME(const int64_t* plan, int single) {                         \
        if (plan[5] > caloforge::kMaxBins) return 0;                                                                       \
        return int64_t(PackedFlow<S>(plan, {}, Layout(single), nullptr).numbers);                                          \
    }                                                                                                                      \
    extern "C" void caloforge_autoregressive_pack_##NAME(const int64_t* plan, int single, const S* const* weights,         \
                                                         S* packed) {                                                      \
        caloforge::pack_flow(PackedFlow<S>(plan, {}, Layout(single), packed), weights, packed);                            \
    }                                                                                                                      \
    extern "C" int caloforge_autoregressive_solve_##NAME(                                                                  \
        const int64_t* plan, int single, double bound, double min_width, double min_height, double min_derivative,         \
        int64_t numbers, const S* packed, int64_t count, const S* z, const S* context, S* x, S* logdet, int threads) {     \
        if (plan[5] > caloforge::kMaxBins) return 1;                                                                       \
        const PackedFlow<S> flow(plan, {int(plan[5]), bound, min_width, min_height, min_derivative}, Layout(single),       \
                                 packed);                                                                                  \
        if (int64_t(flow.numbers) != numbers) return 2;                                                                    \
        if (single)                                                                                                        \
            caloforge::invert_singly(flow, count, z, context, x, logdet);                                                  \
        else                                                                                                               \
            caloforge::invert_tiles(flow, count, z, context, x, logdet, threads);                                          \
        return 0;                                                                                                          \
    }

CALOFORGE_AUTOREGRESSIVE(float, f32)
CALOFORGE_AUTOREGRESSIVE(double, f64)
