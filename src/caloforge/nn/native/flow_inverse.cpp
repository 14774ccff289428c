// C interface of the compiled inverse; caloforge.nn.native loads it through ctypes.
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

using caloforge::FlowShape;
using caloforge::PackedFlow;

#define CALOFORGE_INTERFACE(S, NAME)                                                                                     \
    extern "C" void* caloforge_flow_new_##NAME(int features, int context, int hidden, int layers, int blocks, int bins, \
                                               double bound, double min_width, double min_height,                       \
                                               double min_derivative, int layout) {                                     \
        return new PackedFlow<S>(FlowShape{features, context, hidden, layers, blocks,                                   \
                                           {bins, bound, min_width, min_height, min_derivative}},      \
                                 caloforge::Layout(layout));                     \
    }                                                                                                                    \
    extern "C" void caloforge_flow_free_##NAME(void* flow) { delete static_cast<PackedFlow<S>*>(flow); }                \
    extern "C" void caloforge_flow_pack_##NAME(void* flow, int position, const int64_t* ready, const int64_t* source,   \
                                               const S* const* weights, const S* const* biases,                         \
                                               const S* context_weight, const S* context_bias, const S* out_weight,     \
                                               const S* out_bias) {                                                     \
        static_cast<PackedFlow<S>*>(flow)->pack(position, ready, source, weights, biases, context_weight, context_bias, \
                                                out_weight, out_bias);                                                  \
    }                                                                                                                    \
    extern "C" void caloforge_flow_invert_##NAME(const void* flow, int64_t count, const S* z, const S* context, S* x,   \
                                                 S* logdet, int threads) {                                              \
        const auto& packed = *static_cast<const PackedFlow<S>*>(flow);                                                  \
        if (packed.layout == caloforge::Layout::single)                                                                 \
            caloforge::invert_singly(packed, count, z, context, x, logdet);                                             \
        else                                                                                                            \
            caloforge::invert_tiles(packed, count, z, context, x, logdet, threads);                                     \
    }

// A hash of a few words of each tensor, to notice weights that were changed behind PyTorch's version counters.
extern "C" uint64_t caloforge_fingerprint(const char* const* data, const int64_t* bytes, int tensors) {
    constexpr int64_t samples = 8;
    uint64_t hash = 1469598103934665603ULL;
    for (int k = 0; k < tensors; ++k) {
        const int64_t words = bytes[k] / 4;
        for (int64_t j = 0; j < std::min(samples, words); ++j) {
            uint32_t word;
            std::memcpy(&word, data[k] + 4 * ((words - 1) * j / std::max<int64_t>(1, samples - 1)), 4);
            hash = (hash ^ word) * 1099511628211ULL;
        }
    }
    return hash;
}

CALOFORGE_INTERFACE(float, f32)
CALOFORGE_INTERFACE(double, f64)
