// The package's random streams (caloforge.random): Philox-4x64, addressed by seed, purpose, shower and attempt.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "blake2b.hpp"

// Of the kernels: row r gets numbers up to ends[r]; columns are indices, counters and ends, one behind the other.
extern "C" void caloforge_normals(int64_t key_low, int64_t key_high, int64_t rows, const int64_t* columns, float* out);

namespace caloforge::runtime {

class Stream {
public:
    Stream(uint64_t seed, const std::string& purpose) {
        const std::string name = std::to_string(seed) + '\0' + "generation" + (purpose.empty() ? "" : "/") + purpose;
        Blake2b hash(16);
        hash.add(name.data(), name.size());
        const auto words = hash.finish();
        key_ = {words[0], words[1]};
    }

    // `count` standard normal numbers of one shower.
    void normals(uint64_t shower, uint64_t attempt, int64_t count, float* out) const {
        const int64_t columns[] = {int64_t(shower), int64_t(attempt), count};
        caloforge_normals(int64_t(key_[0]), int64_t(key_[1]), 1, columns, out);
    }

    const std::array<uint64_t, 2>& key() const { return key_; }

private:
    std::array<uint64_t, 2> key_;
};

// Uniform numbers in [0, 1) of one shower, those of numpy's Generator(Philox).random().
class Uniforms {
public:
    Uniforms(const Stream& stream, uint64_t shower, uint64_t attempt = 0) : key_(stream.key()), shower_(shower), attempt_(attempt) {}

    double next() {
        if (at_ == 4) refill();
        return double(words_[at_++] >> 11) * (1.0 / 9007199254740992.0);
    }

    // `count` of them as a model's latents hold them: their bytes, in the room of two floats each.
    void fill(int64_t count, float* out) {
        for (int64_t k = 0; k < count; ++k) {
            const double value = next();
            std::memcpy(out + 2 * k, &value, sizeof value);
        }
    }

private:
    void refill() {
        std::array<uint64_t, 4> c{++counter_, 0, attempt_, shower_};
        std::array<uint64_t, 2> k = key_;
        for (int round = 0; round < 10; ++round) {
            uint64_t high[2], low[2];
            product(c[0], 0xD2E7470EE14C6C93u, high[0], low[0]);
            product(c[2], 0xCA5A826395121157u, high[1], low[1]);
            c = {high[1] ^ c[1] ^ k[0], low[1], high[0] ^ c[3] ^ k[1], low[0]};
            k[0] += 0x9E3779B97F4A7C15u;
            k[1] += 0xBB67AE8584CAA73Bu;
        }
        words_ = c;
        at_ = 0;
    }

    // In halves: ISO C++ has no integers of 128 bits.
    static void product(uint64_t a, uint64_t b, uint64_t& high, uint64_t& low) {
        const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
        const uint64_t p = a0 * b0, q = a1 * b0 + (p >> 32), r = a0 * b1 + (q & 0xffffffffu);
        high = a1 * b1 + (q >> 32) + (r >> 32);
        low = r << 32 | (p & 0xffffffffu);
    }

    std::array<uint64_t, 2> key_;
    std::array<uint64_t, 4> words_{};
    uint64_t shower_, attempt_, counter_ = 0;
    int at_ = 4;
};

// A uniform number among latents; hosts may hand over anything.
inline double uniform_at(const float* latents, int64_t k) {
    double value;
    std::memcpy(&value, latents + 2 * k, sizeof value);
    return value > 0 ? std::min(value, 1.0) : 0;
}

}  // namespace caloforge::runtime
