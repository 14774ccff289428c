// Whether this build makes the showers that the Python package makes: random numbers bit for bit, showers within rounding of a
// reference in 64-bit numbers and plain PyTorch, the same alone and among others. Prints what was found, and PASS or FAIL.
//
//     parity [FOLDER]     with model/ and parity.safetensors in it
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "blake2b.hpp"
#include "caloforge/runtime.hpp"
#include "tensors.hpp"

using caloforge::runtime::Tensors;

namespace {

struct Asked {
    std::vector<cf_particle> particles;
    std::vector<uint64_t> showers;
    uint64_t seed;
    size_t size() const { return showers.size(); }
};

bool all_passed = true;

void report(const char* name, double value, double limit) {
    const bool fine = value <= limit;  // a NaN is not
    all_passed &= fine;
    std::printf("%-46s %12.4g  limit %10.4g  %s\n", name, value, limit, fine ? "ok" : "WRONG");
}

Asked asked_of(const Tensors& vectors, const cf_info& info) {
    const std::vector<double> energy = vectors.doubles("incident_energy"), direction = vectors.doubles("direction", 3 * int64_t(energy.size()));
    const std::vector<int64_t> number = vectors.wholes("shower", int64_t(energy.size()));
    Asked asked{{}, {}, uint64_t(vectors.wholes("seed", 1)[0])};
    for (size_t k = 0; k < energy.size(); ++k) {
        asked.particles.push_back({energy[k], {direction[3 * k], direction[3 * k + 1], direction[3 * k + 2]}, info.particle, 0});
        asked.showers.push_back(uint64_t(number[k]));
    }
    return asked;
}

// Random numbers of all showers, one behind the other.
std::vector<float> latents_of(const caloforge::Model& model, const Asked& asked, const Tensors& vectors) {
    const std::vector<int64_t> wanted = vectors.wholes("latents_digest", 4 * int64_t(asked.size()));
    std::vector<float> all, own;
    int different = 0;
    for (size_t k = 0; k < asked.size(); ++k) {
        int64_t size = 0;
        caloforge::check(cf_latent_size(model.get(), &asked.particles[k], &size));
        own.resize(size_t(size));
        caloforge::check(cf_latents(model.get(), 1, &asked.particles[k], asked.seed, &asked.showers[k], nullptr, own.data()));
        caloforge::runtime::Blake2b hash(32);
        hash.add(own.data(), own.size() * sizeof(float));
        const auto words = hash.finish();
        for (size_t w = 0; w < 4; ++w)
            if (words[w] != uint64_t(wanted[4 * k + w])) {
                ++different;
                break;
            }
        all.insert(all.end(), own.begin(), own.end());
    }
    report("showers with other random numbers", different, 0);
    return all;
}

// Whether first attempts are valid, against the reference; `status` of showers that may be drawn again says that none is outside
// the range. One that no attempt makes is nobody's mistake here: Python gives it up too.
void compare_valid(const Tensors& vectors, const std::vector<uint8_t>& valid, const std::vector<uint8_t>& status, double limit) {
    const std::vector<int64_t> reference = vectors.wholes("valid", int64_t(valid.size()));
    double different = 0;
    for (size_t r = 0; r < valid.size(); ++r) different += (reference[r] != 0) != (valid[r] != 0);
    report("first attempts rejected otherwise", different, limit);
    report("showers called outside the range", double(std::count(status.begin(), status.end(), uint8_t(CF_OUTSIDE))), 0);
}

// Largest difference over the shower's energy; voxels lit in one only although above twice the threshold; and those below, where
// rounding decides, of which there may be one in a thousand.
template <class A, class B>
void compare(const char* name, const Asked& asked, size_t voxels, const A* one, const B* other, double cut) {
    double largest = 0, lit = 0, threshold = 0, all = 0;
    for (size_t r = 0; r < asked.size(); ++r)
        for (size_t i = 0; i < voxels; ++i) {
            const double a = double(one[r * voxels + i]), b = double(other[r * voxels + i]);
            const bool flipped = (a > 0) != (b > 0), bright = std::max(a, b) > 2 * cut;
            all += a > 0;
            lit += flipped && bright;
            threshold += flipped && !bright;
            const double difference = flipped && !bright ? 0 : std::fabs(a - b) / asked.particles[r].energy;
            largest = difference <= largest ? largest : difference;
        }
    report((std::string(name) + ": difference / energy").c_str(), largest, 1e-5);
    report((std::string(name) + ": voxels lit in one only").c_str(), lit, 0);
    report((std::string(name) + ": likewise at the threshold").c_str(), threshold, std::max(2.0, 1e-3 * all));
}

void voxels(const caloforge::Model& model, const Asked& asked, const Tensors& vectors) {
    const size_t n = asked.size(), V = size_t(model.info().voxels);
    const std::vector<double> reference = vectors.doubles("deposits", int64_t(n * V));
    const double cut = vectors.doubles("cut", 1)[0];
    const std::vector<float> latents = latents_of(model, asked, vectors);
    std::vector<float> decoded(n * V), batch(n * V), single(n * V);
    std::vector<uint8_t> valid(n), status(n);
    caloforge::check(cf_decode(model.get(), int64_t(n), asked.particles.data(), latents.data(), decoded.data(), valid.data()));
    caloforge::check(cf_generate(model.get(), int64_t(n), asked.particles.data(), asked.seed, asked.showers.data(), 0, batch.data(),
                                 status.data()));
    // Last digits of deposits decide about one judged shower in a million.
    compare_valid(vectors, valid, status, double(n / 5000));
    for (size_t r = 0; r < n; ++r)
        caloforge::check(cf_generate(model.get(), 1, &asked.particles[r], asked.seed, &asked.showers[r], 0, single.data() + r * V,
                                     status.data() + r));
    compare("against the reference", asked, V, decoded.data(), reference.data(), cut);
    compare("all at once against one by one", asked, V, batch.data(), single.data(), cut);
    std::vector<cf_spot> spots(n * V);
    std::vector<int64_t> offsets(n + 1);
    const cf_error placed = cf_place(model.get(), int64_t(n), batch.data(), 1, asked.seed, asked.showers.data(), int64_t(spots.size()),
                                     spots.data(), offsets.data());
    if (placed == CF_UNSUPPORTED) return;  // the detector has no depths
    caloforge::check(placed);
    double wrong = 0;
    for (size_t r = 0; r < n; ++r) {
        double made = 0, put = 0;
        for (size_t i = 0; i < V; ++i) made += double(batch[r * V + i]);
        for (int64_t s = offsets[r]; s < offsets[r + 1]; ++s) put += spots[size_t(s)].energy;
        wrong += made != put;
    }
    report("showers whose spots hold another energy", wrong, 0);
}

// Showers of points. Where a number of points was rounded the other way, or two equally deep points have changed places, single
// points differ: then layers are compared.
void compare_points(const char* name, const Asked& asked, int layers, const std::vector<double>& points, const std::vector<int64_t>& offsets,
                    const float* other, const int64_t* other_offsets) {
    double moved = 0, counts = 0, layer_energy = 0, place = 0, energy = 0;
    for (size_t r = 0; r < asked.size(); ++r) {
        std::vector<double> sums(2 * size_t(layers)), number(2 * size_t(layers));
        for (int64_t k = offsets[r]; k < offsets[r + 1]; ++k) {
            const size_t l = size_t(points[size_t(4 * k + 2)]);
            sums[l] += points[size_t(4 * k + 3)], number[l] += 1;
        }
        for (int64_t k = other_offsets[r]; k < other_offsets[r + 1]; ++k) {
            const size_t l = size_t(layers) + size_t(other[4 * k + 2]);
            sums[l] += double(other[4 * k + 3]), number[l] += 1;
        }
        for (size_t l = 0; l < size_t(layers); ++l) {
            counts += number[l] != number[size_t(layers) + l];
            layer_energy = std::max(layer_energy, std::fabs(sums[l] - sums[size_t(layers) + l]) / asked.particles[r].energy);
        }
        const int64_t count = offsets[r + 1] - offsets[r];
        bool same = count == other_offsets[r + 1] - other_offsets[r];
        double largest = 0, largest_energy = 0;
        for (int64_t k = 0; same && k < count; ++k)
            for (int c = 0; c < 4; ++c) {
                const double a = points[size_t(4 * (offsets[r] + k) + c)], b = double(other[4 * (other_offsets[r] + k) + c]);
                if (c == 2) same &= a == b;
                else if (c < 2) largest = std::max(largest, std::fabs(a - b));
                else largest_energy = std::max(largest_energy, std::fabs(a - b) / asked.particles[r].energy);
            }
        same &= largest < 1e-2 && largest_energy < 1e-4;
        if (same) place = std::max(place, largest), energy = std::max(energy, largest_energy);
        else moved += 1;
    }
    const double all = double(asked.size());
    report((std::string(name) + ": layers of other counts").c_str(), counts, std::max(2.0, 1e-3 * all * layers));
    report((std::string(name) + ": layer / shower energy").c_str(), layer_energy, 1e-4);
    report((std::string(name) + ": showers with other points").c_str(), moved, std::max(2.0, 0.1 * all));
    report((std::string(name) + ": places in the others, mm").c_str(), place, 1e-2);
    report((std::string(name) + ": energies / shower energy").c_str(), energy, 1e-4);
}

void points(const caloforge::Model& model, const Asked& asked, const Tensors& vectors) {
    const int64_t n = int64_t(asked.size());
    const std::vector<int64_t> offsets = vectors.wholes("offsets", n + 1);
    const std::vector<double> reference = vectors.doubles("points", 4 * offsets.back());
    const std::vector<float> latents = latents_of(model, asked, vectors);
    int64_t capacity = 0;
    for (const cf_particle& particle : asked.particles) {
        int64_t most = 0;
        caloforge::check(cf_most_points(model.get(), &particle, &most));
        capacity += most;
    }
    std::vector<float> made(size_t(4 * capacity)), again(made.size());
    std::vector<int64_t> own(asked.size() + 1), batch(asked.size() + 1);
    std::vector<uint8_t> valid(asked.size()), status(asked.size());
    caloforge::check(cf_decode_points(model.get(), n, asked.particles.data(), latents.data(), capacity, made.data(), own.data(), valid.data()));
    compare_points("against the reference", asked, model.info().layers, reference, offsets, made.data(), own.data());
    caloforge::check(cf_generate_points(model.get(), n, asked.particles.data(), asked.seed, asked.showers.data(), 0, capacity, again.data(),
                                        batch.data(), status.data()));
    compare_valid(vectors, valid, status, 1);
    double different = 0;
    std::vector<float> single;
    for (size_t r = 0; r < asked.size(); ++r) {
        int64_t most = 0, at[2];
        uint8_t own_status;
        caloforge::check(cf_most_points(model.get(), &asked.particles[r], &most));
        single.resize(size_t(4 * most));
        caloforge::check(cf_generate_points(model.get(), 1, &asked.particles[r], asked.seed, &asked.showers[r], 0, most, single.data(), at, &own_status));
        const float* among = again.data() + 4 * batch[r];
        different += at[1] != batch[r + 1] - batch[r] || !std::equal(single.data(), single.data() + 4 * at[1], among);
    }
    report("showers that differ alone and among others", different, 0);
}

}  // namespace

int main(int count, char** arguments) {
    const std::string folder = count > 1 ? arguments[1] : CALOFORGE_EXPORT;
    try {
        const caloforge::Model model(folder + "/model");
        const Tensors vectors(folder + "/parity.safetensors");
        const Asked asked = asked_of(vectors, model.info());
        std::printf("%s, %zu showers\n", model.info().kind, asked.size());
        if (model.info().points) points(model, asked, vectors);
        else voxels(model, asked, vectors);
    } catch (const std::exception& error) {
        std::printf("%s\nFAIL\n", error.what());
        return 1;
    }
    std::printf("%s\n", all_passed ? "PASS" : "FAIL");
    return all_passed ? 0 : 1;
}
