// A runtime that does what a test wants: the C interface without a model.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "caloforge/runtime.h"

struct cf_model {};

namespace fake {

struct State {
    cf_info info{};
    cf_error error = CF_SUCCESS;         // of making a shower
    uint8_t status = CF_OK;
    bool depths = true;
    int64_t most = 4;                    // points
    std::vector<float> deposits{1.5f, 0.f, 0.25f, 3.f};  // voxel k lies at x = 10 k, y = 0, z = 5 + 10 k
    std::vector<float> points{1, 2, 0, 0.5f, -3, 4, 1, 2.25f};
    // What was asked last, and how often.
    cf_particle particle{};
    uint64_t seed = 0, number = 0;
    int calls = 0;
};
inline State state;

inline State of(bool points, bool any_direction) {
    State s;
    s.info.points = points, s.info.layers = 4, s.info.voxels = points ? 0 : 4, s.info.particle = 22;
    s.info.any_direction = any_direction;
    s.info.energy[0] = 1000, s.info.energy[1] = 100000;
    return s;
}

inline uint8_t asked(const cf_particle* particle, uint64_t seed, const uint64_t* number) {
    ++state.calls;
    state.particle = *particle, state.seed = seed, state.number = *number;
    return state.status;
}

}  // namespace fake

extern "C" {

int32_t cf_abi(void) { return CALOFORGE_ABI; }
const char* cf_error_text(cf_error) { return "fake"; }
cf_error cf_open(const char*, cf_model** model, char*, size_t) {
    static cf_model only;
    *model = &only;
    return CF_SUCCESS;
}
void cf_close(cf_model*) {}
cf_error cf_get_info(const cf_model*, cf_info* info) {
    *info = fake::state.info;
    return CF_SUCCESS;
}
cf_error cf_layer_depth(const cf_model*, int32_t, double* front, double* back) {
    *front = 0, *back = 10;
    return fake::state.depths ? CF_SUCCESS : CF_UNSUPPORTED;
}
cf_error cf_generate(const cf_model*, int64_t, const cf_particle* particles, uint64_t seed, const uint64_t* showers, uint32_t,
                     float* deposits, uint8_t* status) {
    *status = fake::asked(particles, seed, showers);
    std::copy(fake::state.deposits.begin(), fake::state.deposits.end(), deposits);
    return fake::state.error;
}
cf_error cf_place(const cf_model*, int64_t, const float* deposits, int32_t per_voxel, uint64_t, const uint64_t*, int64_t capacity,
                  cf_spot* spots, int64_t* offsets) {
    offsets[0] = 0;
    int64_t next = 0;
    for (int k = 0; k < 4; ++k)
        for (int s = 0; s < per_voxel && deposits[k] > 0; ++s, ++next) {
            if (next >= capacity) return CF_SPACE;
            spots[next] = {10.0 * k, 0, 5 + 10.0 * k, double(deposits[k]) / per_voxel, k, k};
        }
    offsets[1] = next;
    return CF_SUCCESS;
}
cf_error cf_most_points(const cf_model*, const cf_particle*, int64_t* most) {
    *most = fake::state.most;
    return CF_SUCCESS;
}
cf_error cf_generate_points(const cf_model*, int64_t, const cf_particle* particles, uint64_t seed, const uint64_t* showers, uint32_t,
                            int64_t capacity, float* points, int64_t* offsets, uint8_t* status) {
    *status = fake::asked(particles, seed, showers);
    offsets[0] = 0, offsets[1] = int64_t(fake::state.points.size() / 4);
    if (capacity < offsets[1]) return CF_SPACE;
    std::copy(fake::state.points.begin(), fake::state.points.end(), points);
    return fake::state.error;
}
cf_error cf_place_points(const cf_model*, int64_t count, const float* points, cf_spot* spots) {
    for (int64_t k = 0; k < count; ++k) {
        const float* p = points + 4 * k;
        spots[k] = {double(p[0]), double(p[1]), 5 + 10 * double(p[2]), double(p[3]), int32_t(p[2]), -1};
    }
    return CF_SUCCESS;
}
}
