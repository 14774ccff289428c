// C interface of PointWise Net and of all that follows the flow of CaloClouds; caloforge.kernels.ops.pointwise and
// caloforge.kernels.ops.clouds call it.
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

// Numbers in the packed weights; what the plan is, point_network.hpp says.
#define CALOFORGE_POINT_NETWORK(S, NAME)                                                                                   \
    extern "C" int64_t caloforge_pointwise_numbers_##NAME(const int64_t* plan) {                                          \
        return int64_t(PackedPointNetwork<S>(plan, nullptr).numbers);                                                      \
    }                                                                                                                      \
    extern "C" void caloforge_pointwise_pack_##NAME(const int64_t* plan, const S* const* weights, S* packed) {             \
        caloforge::pack_point_network(PackedPointNetwork<S>(plan, packed), weights);                                       \
    }                                                                                                                      \
    extern "C" int caloforge_pointwise_move_##NAME(const int64_t* plan, int64_t numbers, const S* packed, int64_t showers, \
                                                   const int64_t* offsets, const S* points, const S* noise,                \
                                                   const S* context, S* moved, int threads) {                              \
        const PackedPointNetwork<S> network(plan, packed);                                                                 \
        if (int64_t(network.numbers) != numbers) return 2;                                                                 \
        caloforge::move_points(network, showers, offsets, points, noise, context, moved, threads);                         \
        return 0;                                                                                                          \
    }                                                                                                                      \
    extern "C" int caloforge_pointwise_generate_##NAME(                                                                    \
        const int64_t* plan, int64_t numbers, const S* packed, int64_t showers, const int64_t* offsets, const S* z,        \
        const int64_t* starts, double noise, const S* context, double scale, double skip, double out, double* made,        \
        int threads) {                                                                                                     \
        const PackedPointNetwork<S> network(plan, packed);                                                                 \
        if (int64_t(network.numbers) != numbers) return 2;                                                                 \
        caloforge::generate_points(network, showers, offsets, z, starts, noise, context, scale, skip, out, made, threads); \
        return 0;                                                                                                          \
    }                                                                                                                      \
    extern "C" int64_t caloforge_clouds_decode_##NAME(                                                                     \
        const int64_t* plan, int64_t numbers, const S* packed, const double* constants, int64_t showers, int64_t features, \
        const S* raw, \
        const double* incident_energy, const float* direction, const S* z, const int64_t* starts, int64_t* offsets,        \
        float* points, uint8_t* valid, int threads) {                                                                      \
        const PackedPointNetwork<S> network(plan, packed);                                                                 \
        if (int64_t(network.numbers) != numbers) return -2;                                                                \
        const caloforge::CloudConstants known(constants);                                                                  \
        if (known.features() != features) return -3;                                                                       \
        return caloforge::decode_clouds(network, known, showers, raw, incident_energy,      \
                                        direction, z, starts, offsets, points, valid, threads);                            \
    }

CALOFORGE_POINT_NETWORK(float, f32)
CALOFORGE_POINT_NETWORK(double, f64)
