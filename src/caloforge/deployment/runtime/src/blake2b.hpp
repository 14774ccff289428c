// BLAKE2b without a key (RFC 7693): addresses of random streams, and whether a file is the one that was exported.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

namespace caloforge::runtime {

class Blake2b {
public:
    explicit Blake2b(unsigned digest_bytes) {
        std::copy(kStart, kStart + 8, state_);
        state_[0] ^= 0x01010000u ^ digest_bytes;
    }

    void add(const void* data, size_t bytes) {
        const auto* from = static_cast<const uint8_t*>(data);
        while (bytes) {
            if (filled_ == sizeof buffer_) compress(false);
            const size_t some = std::min(bytes, sizeof buffer_ - filled_);
            std::memcpy(buffer_ + filled_, from, some);
            filled_ += some;
            from += some;
            bytes -= some;
        }
    }

    // The first 32 bytes of the state, of which as many as the digest has are meant.
    std::array<uint64_t, 4> finish() {
        std::memset(buffer_ + filled_, 0, sizeof buffer_ - filled_);
        compress(true);
        return {state_[0], state_[1], state_[2], state_[3]};
    }

private:
    static uint64_t turned(uint64_t v, int bits) { return v >> bits | v << (64 - bits); }

    void compress(bool last) {
        static const uint8_t order[10][16] = {
            {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
            {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
            {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
            {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
            {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
        count_ += filled_;
        filled_ = 0;
        uint64_t m[16], v[16];
        std::memcpy(m, buffer_, sizeof m);
        std::copy(state_, state_ + 8, v);
        std::copy(kStart, kStart + 8, v + 8);
        v[12] ^= count_;
        if (last) v[14] = ~v[14];
        for (int round = 0; round < 12; ++round) {
            const uint8_t* s = order[round % 10];
            auto mix = [&](int a, int b, int c, int d, int k) {
                v[a] += v[b] + m[s[k]];
                v[d] = turned(v[d] ^ v[a], 32);
                v[c] += v[d];
                v[b] = turned(v[b] ^ v[c], 24);
                v[a] += v[b] + m[s[k + 1]];
                v[d] = turned(v[d] ^ v[a], 16);
                v[c] += v[d];
                v[b] = turned(v[b] ^ v[c], 63);
            };
            mix(0, 4, 8, 12, 0), mix(1, 5, 9, 13, 2), mix(2, 6, 10, 14, 4), mix(3, 7, 11, 15, 6);
            mix(0, 5, 10, 15, 8), mix(1, 6, 11, 12, 10), mix(2, 7, 8, 13, 12), mix(3, 4, 9, 14, 14);
        }
        for (int k = 0; k < 8; ++k) state_[k] ^= v[k] ^ v[k + 8];
    }

    static constexpr uint64_t kStart[8] = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
                                           0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};
    uint64_t state_[8], count_ = 0;
    uint8_t buffer_[128];
    size_t filled_ = 0;
};

// 32 bytes as 64 hexadecimal digits.
inline std::string digest_of(const void* data, size_t bytes) {
    Blake2b hash(32);
    hash.add(data, bytes);
    const auto words = hash.finish();
    std::string text;
    for (uint64_t word : words)
        for (int k = 0; k < 8; ++k) {
            const unsigned byte = unsigned(word >> (8 * k)) & 255u;
            text += "0123456789abcdef"[byte >> 4];
            text += "0123456789abcdef"[byte & 15];
        }
    return text;
}

}  // namespace caloforge::runtime
