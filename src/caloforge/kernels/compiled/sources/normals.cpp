// Standard normal numbers, bit for bit those of numpy's ``Generator(Philox).standard_normal(dtype=float32)``: the counter-based
// generator Philox-4x64-10 (Salmon et al., SC'11) and the ziggurat with 256 layers (Marsaglia, Tsang, J. Stat. Software 5 (2000) 8).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace caloforge {

struct Ziggurat {
    static constexpr double kEdge = 3.6541528853610088;  // where the tail begins, with 256 layers
    uint32_t inside[256];  // numbers below are inside the layer's rectangle in any case
    float width[256], height[256];

    Ziggurat() {
        const double steps = 8388608, top = std::exp(-kEdge * kEdge / 2);  // 23 random bits
        const double area = kEdge * top + std::sqrt(std::acos(-1.0) / 2) * std::erfc(kEdge / std::sqrt(2.0));
        double x = kEdge;
        inside[0] = uint32_t(kEdge * top / area * steps + 0.5);
        inside[1] = 0;
        width[0] = float(area / top / steps);
        width[255] = float(kEdge / steps);
        height[0] = 1;
        height[255] = float(top);
        for (int k = 254; k >= 1; --k) {
            const double above = x;
            x = std::sqrt(-2 * std::log(area / x + std::exp(-x * x / 2)));
            inside[k + 1] = uint32_t(x / above * steps + 0.5);
            width[k] = float(x / steps);
            height[k] = float(std::exp(-x * x / 2));
        }
    }
};

// The 32-bit words of one stream, low halves first.
class Words {
public:
    Words(const uint64_t* key, uint64_t attempt, uint64_t index) : key_{key[0], key[1]}, attempt_(attempt), index_(index) {}

    // The next ones, at least `count` (16 at most) of them; about `wanted` more will be asked for.
    const uint32_t* ahead(int count, int64_t wanted) {
        if (end_ - next_ < count) {
            std::memmove(words_, words_ + next_, (end_ - next_) * sizeof(uint32_t));
            end_ -= next_;
            next_ = 0;
            const int blocks = int(std::min<int64_t>(kBlocks, (wanted + 31) / 8));
            for (int b = 0; b < blocks; b += kTogether) add_blocks();
        }
        return words_ + next_;
    }
    void skip(int count) { next_ += count; }
    uint32_t one() {
        const uint32_t word = *ahead(1, 1);
        ++next_;
        return word;
    }
    float uniform() { return float(int32_t(one() >> 8)) * (1.0f / 16777216.0f); }

private:
    static constexpr int kBlocks = 128, kTogether = 2;

    // A few counters at a time, so that their multiplications overlap.
    void add_blocks() {
        uint64_t c[4][kTogether], k0 = key_[0], k1 = key_[1];
        for (int b = 0; b < kTogether; ++b) {
            c[0][b] = ++counter_;
            c[1][b] = 0;
            c[2][b] = attempt_;
            c[3][b] = index_;
        }
        for (int round = 0; round < 10; ++round) {
            for (int b = 0; b < kTogether; ++b) {
                const unsigned __int128 p = (unsigned __int128)c[0][b] * 0xD2E7470EE14C6C93u;
                const unsigned __int128 q = (unsigned __int128)c[2][b] * 0xCA5A826395121157u;
                c[0][b] = uint64_t(q >> 64) ^ c[1][b] ^ k0;
                c[1][b] = uint64_t(q);
                c[2][b] = uint64_t(p >> 64) ^ c[3][b] ^ k1;
                c[3][b] = uint64_t(p);
            }
            k0 += 0x9E3779B97F4A7C15u;
            k1 += 0xBB67AE8584CAA73Bu;
        }
        for (int b = 0; b < kTogether; ++b)
            for (int k = 0; k < 4; ++k) {
                words_[end_++] = uint32_t(c[k][b]);
                words_[end_++] = uint32_t(c[k][b] >> 32);
            }
    }

    uint64_t key_[2], attempt_, index_, counter_ = 0;
    int next_ = 0, end_ = 0;
    uint32_t words_[16 + 8 * (kBlocks + kTogether)];
};

// What a number outside the rectangle of its layer becomes; false if another one is to be drawn.
inline bool beyond(const Ziggurat& z, uint32_t word, float x, Words& words, float* out) {
    const int layer = word & 255;
    if (layer) {
        *out = x;
        const float place = (z.height[layer - 1] - z.height[layer]) * words.uniform() + z.height[layer];
        return double(place) < std::exp(-0.5 * double(x) * double(x));
    }
    for (;;) {
        const float tail = float(-1 / Ziggurat::kEdge) * std::log1p(-words.uniform());
        const float y = -std::log1p(-words.uniform());
        if (!(y + y > tail * tail)) continue;
        const float found = float(Ziggurat::kEdge) + tail;
        *out = (word >> 17) & 1 ? -found : found;
        return true;
    }
}

inline void normals(const Ziggurat& z, Words words, int64_t count, float* out) {
    constexpr int together = 16;
    float x[together];
    for (int64_t done = 0; done < count;) {
        const uint32_t* w = words.ahead(together, count - done);
        uint32_t outside[together], any = 0;
        for (int k = 0; k < together; ++k) {
            const uint32_t layer = w[k] & 255, size = w[k] >> 9, sign = (w[k] << 23) & 0x80000000u;
            const float value = float(int32_t(size)) * z.width[layer];
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            bits ^= sign;
            std::memcpy(&x[k], &bits, sizeof bits);
            outside[k] = size >= z.inside[layer];
            any |= outside[k];
        }
        int good = together;
        if (any)
            for (good = 0; !outside[good];) ++good;
        if (good >= count - done) {
            std::copy(x, x + (count - done), out + done);
            return;
        }
        std::copy(x, x + good, out + done);
        done += good;
        if (good < together) {
            const uint32_t word = w[good];
            words.skip(good + 1);
            done += beyond(z, word, x[good], words, out + done);
        } else {
            words.skip(together);
        }
    }
}

}  // namespace caloforge

// Row r gets ends[r] - ends[r - 1] numbers of the stream that the key, counters[r] and indices[r] address; `columns` are the
// indices, the counters and the ends, one behind the other.
extern "C" void caloforge_normals(int64_t key_low, int64_t key_high, int64_t rows, const int64_t* columns, float* out) {
    static const caloforge::Ziggurat ziggurat;
    const int64_t *indices = columns, *counters = columns + rows, *ends = columns + 2 * rows;
    const uint64_t key[2] = {uint64_t(key_low), uint64_t(key_high)};
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t start = r ? ends[r - 1] : 0;
        caloforge::normals(ziggurat, caloforge::Words(key, uint64_t(counters[r]), uint64_t(indices[r])), ends[r] - start, out + start);
    }
}
