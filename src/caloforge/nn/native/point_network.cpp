// C interface of PointWise Net and of all that follows the flow of CaloClouds; caloforge.nn.native loads it through ctypes.
#include "point_cloud.hpp"

namespace caloforge {

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
        std::vector<double> columns(size_t(features) * PointTile<S>::most_points);
        tile.generate(piece.count, z + row * features, mod, S(scale), skip, out, columns.data(), PointTile<S>::most_points);
        for (int r = 0; r < piece.count; ++r)
            for (int64_t k = 0; k < features; ++k)
                made[(piece.first + r) * features + k] = columns[k * PointTile<S>::most_points + r];
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
    }                                                                                                                      \
    extern "C" int64_t caloforge_cloud_decode_##NAME(                                                                      \
        const void* network, const void* constants, int64_t showers, const S* raw, const double* incident_energy,          \
        const float* direction, const S* z, const int64_t* starts, int64_t* offsets, float* points, uint8_t* valid,        \
        int threads) {                                                                                                     \
        return caloforge::decode_clouds(*static_cast<const PackedPointNetwork<S>*>(network),                               \
                                        *static_cast<const caloforge::CloudConstants*>(constants), showers, raw,           \
                                        incident_energy, direction, z, starts, offsets, points, valid, threads);           \
    }

CALOFORGE_POINT_NETWORK(float, f32)
CALOFORGE_POINT_NETWORK(double, f64)
