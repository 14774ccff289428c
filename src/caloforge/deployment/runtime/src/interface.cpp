// The C interface: arguments are looked at, exceptions become codes, rejected showers are drawn again.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "model.hpp"
#include "streams.hpp"

using namespace caloforge::runtime;

struct cf_model {
    std::unique_ptr<Model> model;
};

namespace {

constexpr uint64_t kMostAttempts = 100;  // as in `caloforge generate`
constexpr size_t kTogether = 256;        // most showers decoded at once
constexpr size_t kLatents = 1 << 20;     // and most of their random numbers, but for the first shower

void need_argument(bool fine, const char* what) {
    if (!fine) throw Failure(CF_ARGUMENT, what);
}

template <class Work>
cf_error guarded(char* message, size_t size, const Work& work) noexcept {
    cf_error code = CF_SUCCESS;
    const char* text = "";
    std::string kept;
    try {
        try {
            work();
        } catch (const Failure& failure) {
            code = failure.code;
            kept = failure.what();
            text = kept.c_str();
        } catch (const std::bad_alloc&) {
            code = CF_MEMORY;
            text = cf_error_text(code);
        } catch (const std::exception& error) {
            code = CF_INTERNAL;
            kept = error.what();
            text = kept.c_str();
        }
    } catch (...) {  // no memory for the sentence, or nothing of ours
        code = code == CF_SUCCESS ? CF_INTERNAL : code;
        text = cf_error_text(code);
    }
    if (message && size) {
        const size_t length = std::min(std::strlen(text), size - 1);
        std::memcpy(message, text, length);
        message[length] = 0;
    }
    return code;
}

template <class Work>
cf_error guarded(const Work& work) noexcept {
    return guarded(nullptr, 0, work);
}

const VoxelModel& voxel_model(const cf_model* model) {
    need_argument(model, "no model");
    if (model->model->info.points) throw Failure(CF_UNSUPPORTED, "a model of points has no voxels");
    return static_cast<const VoxelModel&>(*model->model);
}

const PointModel& point_model(const cf_model* model) {
    need_argument(model, "no model");
    if (!model->model->info.points) throw Failure(CF_UNSUPPORTED, "a model of voxels has no points");
    return static_cast<const PointModel&>(*model->model);
}

Shower shower_of(const cf_particle& particle, uint64_t number, uint64_t attempt) {
    Shower out{particle.energy, {}, number, attempt};
    for (int k = 0; k < 3; ++k) out.direction[k] = float(particle.direction[k]);
    return out;
}

// Whether numbers make sense at all, trained or not: a shower of no energy, or of a particle that flies out, cannot be made.
bool possible(const cf_particle& p) {
    return std::isfinite(p.energy) && p.energy > 0 && std::isfinite(p.direction[0]) && std::isfinite(p.direction[1]) &&
           p.direction[2] > 0 && p.direction[2] <= 1 + 1e-6;
}

bool wanted(const Model& model, const cf_particle& particle, uint32_t flags) {
    return possible(particle) && (model.knows(particle) || (flags & CF_EXTRAPOLATE && particle.pdg == model.info.particle));
}

// Some of the next showers to be made, those that are decoded together.
struct Batch {
    std::vector<Shower> showers;
    std::vector<size_t> starts;  // of their latents, and the end

    template <class Next>
    Batch(const Model& model, size_t left, const Next& next) : starts{0} {
        while (showers.size() < std::min(kTogether, left)) {
            const Shower shower = next(showers.size());
            const size_t end = starts.back() + size_t(model.latent_size(shower));
            if (!showers.empty() && end > kLatents) break;
            showers.push_back(shower);
            starts.push_back(end);
        }
    }
    size_t size() const { return showers.size(); }
};

void need_showers(int64_t n, const void* particles, const void* showers, const void* out) {
    need_argument(n >= 0 && n < int64_t(1) << 40, "a number of showers is out of range");
    need_argument(n == 0 || (particles && showers && out), "a null pointer");
}

void need_seed(uint64_t seed) { need_argument(seed < uint64_t(1) << 63, "a seed is below 2^63"); }

}  // namespace

extern "C" {

int32_t cf_abi(void) { return CALOFORGE_ABI; }

const char* cf_error_text(cf_error error) {
    switch (error) {
        case CF_SUCCESS: return "no error";
        case CF_NO_FILE: return "a file of the model is missing or cannot be read";
        case CF_DAMAGED: return "a file of the model is damaged";
        case CF_VERSION: return "the model was exported for another version of this library";
        case CF_UNSUPPORTED: return "the model cannot do this";
        case CF_ARGUMENT: return "an argument is wrong";
        case CF_MEMORY: return "out of memory";
        case CF_SPACE: return "the buffer is too small";
        case CF_PROCESSOR: return "this library was compiled for a processor with more instructions";
        case CF_INTERNAL: break;
    }
    return "internal error";
}

cf_error cf_open(const char* directory, cf_model** model, char* message, size_t size) {
    return guarded(message, size, [&] {
#if defined(__AVX2__) && defined(__GNUC__)
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
            throw Failure(CF_PROCESSOR, "this library was compiled for processors with AVX2; configure it with -DCALOFORGE_MARCH=x86-64-v2");
#endif
        need_argument(directory && model, "a null pointer");
        *model = nullptr;
        auto opened = std::make_unique<cf_model>();
        opened->model = open_model(directory);
        *model = opened.release();
    });
}

void cf_close(cf_model* model) { delete model; }

cf_error cf_get_info(const cf_model* model, cf_info* info) {
    return guarded([&] {
        need_argument(model && info, "a null pointer");
        *info = model->model->info;
    });
}

cf_error cf_layer_depth(const cf_model* model, int32_t layer, double* front, double* back) {
    return guarded([&] {
        need_argument(model && front && back, "a null pointer");
        need_argument(layer >= 0 && layer < model->model->info.layers, "there is no such layer");
        if (model->model->depths.empty()) throw Failure(CF_UNSUPPORTED, "the model does not know the depths of its layers");
        *front = model->model->depths[size_t(layer)].front;
        *back = model->model->depths[size_t(layer)].back;
    });
}

// ---- voxels ---------------------------------------------------------------------------------------------------------

cf_error cf_generate(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed, const uint64_t* showers,
                     uint32_t flags, float* deposits, uint8_t* status) {
    return guarded([&] {
        const VoxelModel& m = voxel_model(model);
        need_showers(n, particles, showers, deposits);
        need_argument(n == 0 || status, "a null pointer");
        need_seed(seed);
        const size_t V = size_t(m.info.voxels);
        std::vector<int64_t> rows;  // to be made, then those that were rejected
        for (int64_t r = 0; r < n; ++r) {
            const bool made = wanted(m, particles[r], flags);
            status[r] = made ? CF_OK : CF_OUTSIDE;
            if (made) rows.push_back(r);
            else std::fill_n(deposits + size_t(r) * V, V, 0.0f);
        }
        std::vector<float> latents, made;
        std::vector<uint8_t> valid(kTogether);
        for (uint64_t attempt = 0; !rows.empty() && attempt < kMostAttempts; ++attempt) {
            std::vector<int64_t> rejected;
            for (size_t first = 0; first < rows.size();) {
                const auto next = [&](size_t k) {
                    const int64_t row = rows[first + k];
                    return shower_of(particles[row], showers[row], attempt);
                };
                const Batch batch(m, rows.size() - first, next);
                latents.resize(batch.starts.back());
                for (size_t k = 0; k < batch.size(); ++k) m.latents(seed, batch.showers[k], latents.data() + batch.starts[k]);
                made.resize(V * batch.size());
                m.decode(int64_t(batch.size()), batch.showers.data(), latents.data(), made.data(), valid.data());
                for (size_t k = 0; k < batch.size(); ++k) {
                    const int64_t row = rows[first + k];
                    std::copy_n(made.data() + k * V, V, deposits + size_t(row) * V);
                    if (!valid[k]) rejected.push_back(row);
                    else if (attempt) status[row] = CF_REDRAWN;
                }
                first += batch.size();
            }
            rows.swap(rejected);
        }
        for (int64_t row : rows) {
            status[row] = CF_FAILED;
            std::fill_n(deposits + size_t(row) * V, V, 0.0f);  // not the last one that was rejected
        }
    });
}

cf_error cf_latent_size(const cf_model* model, const cf_particle* particle, int64_t* size) {
    return guarded([&] {
        need_argument(model && particle && size, "a null pointer");
        need_argument(possible(*particle), "an impossible particle");
        *size = model->model->latent_size(shower_of(*particle, 0, 0));
    });
}

cf_error cf_latents(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed, const uint64_t* showers,
                    const uint64_t* attempts, float* latents) {
    return guarded([&] {
        need_argument(model, "no model");
        need_showers(n, particles, showers, latents);
        need_seed(seed);
        for (int64_t r = 0; r < n; ++r) {
            need_argument(possible(particles[r]), "an impossible particle");
            const Shower shower = shower_of(particles[r], showers[r], attempts ? attempts[r] : 0);
            model->model->latents(seed, shower, latents);
            latents += model->model->latent_size(shower);
        }
    });
}

cf_error cf_decode(const cf_model* model, int64_t n, const cf_particle* particles, const float* latents, float* deposits,
                   uint8_t* valid) {
    return guarded([&] {
        const VoxelModel& m = voxel_model(model);
        need_showers(n, particles, latents, deposits);
        need_argument(n == 0 || valid, "a null pointer");
        for (int64_t r = 0; r < n; ++r) need_argument(possible(particles[r]), "an impossible particle");
        for (int64_t first = 0; first < n;) {
            const auto next = [&](size_t k) { return shower_of(particles[first + int64_t(k)], 0, 0); };
            const Batch batch(m, size_t(n - first), next);
            m.decode(int64_t(batch.size()), batch.showers.data(), latents, deposits + first * m.info.voxels, valid + first);
            latents += batch.starts.back();
            first += int64_t(batch.size());
        }
    });
}

// ---- points ---------------------------------------------------------------------------------------------------------

cf_error cf_most_points(const cf_model* model, const cf_particle* particle, int64_t* most) {
    return guarded([&] {
        const PointModel& m = point_model(model);
        need_argument(particle && most, "a null pointer");
        need_argument(possible(*particle), "an impossible particle");
        *most = m.most_points(particle->energy);
    });
}

cf_error cf_generate_points(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed, const uint64_t* showers,
                            uint32_t flags, int64_t capacity, float* points, int64_t* offsets, uint8_t* status) {
    return guarded([&] {
        const PointModel& m = point_model(model);
        need_showers(n, particles, showers, status);
        need_argument(offsets && capacity >= 0 && (capacity == 0 || points), "no buffer");
        need_seed(seed);
        offsets[0] = 0;
        for (int64_t r = 0; r < n; ++r) {
            offsets[r + 1] = offsets[r];
            if (!wanted(m, particles[r], flags)) {
                status[r] = CF_OUTSIDE;
                continue;
            }
            status[r] = CF_FAILED;
            for (uint64_t attempt = 0; attempt < kMostAttempts; ++attempt) {
                uint8_t valid = 0;
                const int64_t room = std::max<int64_t>(capacity - offsets[r], 0);
                const Shower shower = shower_of(particles[r], showers[r], attempt);
                const int64_t count = m.generate(seed, shower, room, points + 4 * (capacity - room), &valid);
                if (!valid) continue;
                offsets[r + 1] = offsets[r] + count;
                status[r] = attempt ? CF_REDRAWN : CF_OK;
                break;
            }
        }
        if (offsets[n] > capacity) throw Failure(CF_SPACE, "the buffer is too small");
    });
}

cf_error cf_decode_points(const cf_model* model, int64_t n, const cf_particle* particles, const float* latents, int64_t capacity,
                          float* points, int64_t* offsets, uint8_t* valid) {
    return guarded([&] {
        const PointModel& m = point_model(model);
        need_showers(n, particles, latents, valid);
        need_argument(offsets && capacity >= 0 && (capacity == 0 || points), "no buffer");
        offsets[0] = 0;
        for (int64_t r = 0; r < n; ++r) {
            need_argument(possible(particles[r]), "an impossible particle");
            const Shower shower = shower_of(particles[r], 0, 0);
            const int64_t room = std::max<int64_t>(capacity - offsets[r], 0);
            offsets[r + 1] = offsets[r] + m.decode(shower, latents, room, points + 4 * (capacity - room), valid + r);
            latents += m.latent_size(shower);
        }
        if (offsets[n] > capacity) throw Failure(CF_SPACE, "the buffer is too small");
    });
}

// ---- placing --------------------------------------------------------------------------------------------------------

cf_error cf_place(const cf_model* model, int64_t n, const float* deposits, int32_t per_voxel, uint64_t seed, const uint64_t* showers,
                  int64_t capacity, cf_spot* spots, int64_t* offsets) {
    return guarded([&] {
        const VoxelModel& m = voxel_model(model);
        need_showers(n, deposits, showers, offsets);
        need_argument(offsets && capacity >= 0 && (capacity == 0 || spots), "no buffer");
        need_argument(per_voxel >= 1 && per_voxel <= 64, "1 to 64 spots for each voxel");
        need_seed(seed);
        if (m.depths.empty()) throw Failure(CF_UNSUPPORTED, "the model does not know the depths of its layers");
        const Stream stream(seed, "placement");
        int64_t next = 0;
        offsets[0] = 0;
        for (int64_t r = 0; r < n; ++r) {
            Uniforms uniforms(stream, showers[r]);
            const float* deposit = deposits + r * m.info.voxels;
            const double* cell = m.cells.data();
            int32_t voxel = 0;
            for (size_t l = 0; l < m.layer_sizes.size(); ++l)
                for (int64_t i = 0; i < m.layer_sizes[l]; ++i, ++voxel, ++deposit, cell += 4) {
                    if (!(*deposit > 0)) continue;
                    // Shares of 24 bits add up without rounding in double, and so does the rest.
                    const double share = double(float(double(*deposit) / per_voxel));
                    for (int32_t s = 0; s < per_voxel; ++s, ++next) {
                        double u[3] = {0.5, 0.5, 0.5};
                        if (per_voxel > 1)
                            for (double& value : u) value = uniforms.next();
                        if (next >= capacity) continue;
                        const double outer = cell[0] + u[0] * (cell[1] - cell[0]);
                        double inner = cell[2] + u[1] * (cell[3] - cell[2]);
                        if (m.polar[l] && per_voxel > 1)  // uniform in area
                            inner = std::sqrt(cell[2] * cell[2] + u[1] * (cell[3] * cell[3] - cell[2] * cell[2]));
                        cf_spot& spot = spots[next];
                        spot.x = m.polar[l] ? inner * std::cos(outer) : outer;
                        spot.y = m.polar[l] ? inner * std::sin(outer) : inner;
                        spot.z = m.depths[l].front + u[2] * (m.depths[l].back - m.depths[l].front);
                        spot.energy = s + 1 < per_voxel ? share : double(*deposit) - share * (per_voxel - 1);
                        spot.layer = int32_t(l);
                        spot.voxel = voxel;
                    }
                }
            offsets[r + 1] = next;
        }
        if (next > capacity) throw Failure(CF_SPACE, "the buffer is too small");
    });
}

cf_error cf_place_points(const cf_model* model, int64_t count, const float* points, cf_spot* spots) {
    return guarded([&] {
        const PointModel& m = point_model(model);
        need_argument(count >= 0 && (count == 0 || (points && spots)), "a null pointer");
        if (m.depths.empty()) throw Failure(CF_UNSUPPORTED, "the model does not know the depths of its layers");
        for (int64_t k = 0; k < count; ++k) {
            const float* p = points + 4 * k;
            need_argument(p[2] >= 0 && p[2] < float(m.info.layers), "a point is in no layer");
            const LayerPlace& layer = m.depths[size_t(p[2])];
            spots[k] = {double(p[0]), double(p[1]), (layer.front + layer.back) / 2, double(p[3]), int32_t(p[2]), -1};
        }
    });
}

}  // extern "C"
