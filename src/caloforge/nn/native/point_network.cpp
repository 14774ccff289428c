// C interface of PointWise Net; caloforge.nn.native loads it through ctypes.
#include "parallel.hpp"
#include "point_network.hpp"

namespace caloforge {

// Some points of one shower.
struct Piece {
    int64_t shower, first;
    int count;
};

// work(tile, piece, modulation of its shower) for all points, some of a shower at a time; noise levels are `noise_step` apart.
template <class S, class Work>
void over_points(const PackedPointNetwork<S>& network, int64_t showers, const int64_t* offsets, const S* noise, int noise_step,
                 const S* context, int threads, Work work) {
    const size_t modulations = network.shape.modulations();
    std::vector<Piece> pieces;
    for (int64_t shower = 0; shower < showers; ++shower)
        for (int64_t first = offsets[shower]; first < offsets[shower + 1]; first += PointTile<S>::most_points)
            pieces.push_back({shower, first, int(std::min<int64_t>(PointTile<S>::most_points, offsets[shower + 1] - first))});
    std::vector<S> modulation(modulations * showers);
    parallel(showers, 8, threads, [&](int64_t first, int64_t end) {
        Modulator<S> modulator(network);
        for (; first < end; ++first)
            if (offsets[first] < offsets[first + 1])
                modulator.run(noise[first * noise_step], context + first * network.shape.context,
                              modulation.data() + first * modulations);
    });
    parallel(int64_t(pieces.size()), 4, threads, [&](int64_t first, int64_t end) {
        PointTile<S> tile(network);
        for (; first < end; ++first) work(tile, pieces[first], modulation.data() + pieces[first].shower * modulations);
    });
}

template <class S>
void move_points(const PackedPointNetwork<S>& network, int64_t showers, const int64_t* offsets, const S* points,
                 const S* noise, const S* context, S* moved, int threads) {
    over_points(network, showers, offsets, noise, 1, context, threads, [&](PointTile<S>& tile, const Piece& piece, const S* mod) {
        tile.run(piece.count, points + piece.first * network.shape.features, mod, moved + piece.first * network.shape.outputs.back());
    });
}

// Numbers of shower n start at row starts[n] of z.
template <class S>
void generate_points(const PackedPointNetwork<S>& network, int64_t showers, const int64_t* offsets, const S* z,
                     const int64_t* starts, double noise, const S* context, double scale, double skip, double out, double* made,
                     int threads) {
    const int64_t features = network.shape.features;
    const S level = S(noise);
    over_points(network, showers, offsets, &level, 0, context, threads, [&](PointTile<S>& tile, const Piece& piece, const S* mod) {
        const int64_t row = starts[piece.shower] + piece.first - offsets[piece.shower];
        tile.generate(piece.count, z + row * features, mod, S(scale), skip, out, made + piece.first * features);
    });
}

}  // namespace caloforge

using caloforge::PackedPointNetwork;
using caloforge::PointNetworkShape;

#define CALOFORGE_POINT_NETWORK(S, NAME)                                                                                   \
    extern "C" void* caloforge_points_new_##NAME(int features, int time, int context, int layers, const int64_t* outputs,  \
                                                 const S* frequencies, const S* time_weight, const S* time_bias,           \
                                                 const S* modulation_weight, const S* modulation_bias,                     \
                                                 const S* const* weights, const S* const* biases) {                        \
        const PointNetworkShape shape{features, time, context, std::vector<int>(outputs, outputs + layers)};               \
        return new PackedPointNetwork<S>(shape, frequencies, time_weight, time_bias, modulation_weight, modulation_bias,   \
                                         weights, biases);                                                                 \
    }                                                                                                                      \
    extern "C" void caloforge_points_free_##NAME(void* network) { delete static_cast<PackedPointNetwork<S>*>(network); }   \
    extern "C" void caloforge_points_move_##NAME(const void* network, int64_t showers, const int64_t* offsets,             \
                                                 const S* points, const S* noise, const S* context, S* moved,              \
                                                 int threads) {                                                            \
        caloforge::move_points(*static_cast<const PackedPointNetwork<S>*>(network), showers, offsets, points, noise,       \
                               context, moved, threads);                                                                   \
    }                                                                                                                      \
    extern "C" void caloforge_points_generate_##NAME(const void* network, int64_t showers, const int64_t* offsets,         \
                                                     const S* z, const int64_t* starts, double noise, const S* context,    \
                                                     double scale, double skip, double out, double* made, int threads) {   \
        caloforge::generate_points(*static_cast<const PackedPointNetwork<S>*>(network), showers, offsets, z, starts,       \
                                   noise, context, scale, skip, out, made, threads);                                       \
    }

CALOFORGE_POINT_NETWORK(float, f32)
CALOFORGE_POINT_NETWORK(double, f64)
