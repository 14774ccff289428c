// How long showers take one by one: opening, the first shower, and the median of many, placed into spots. Prints one line of JSON.
//
//     timing MODEL GEV SHOWERS
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>

#include "caloforge/runtime.hpp"

namespace {

double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double processor() { return double(std::clock()) / CLOCKS_PER_SEC; }

// Memory of the process now, and what of it is its own rather than pages of files, kB.
void memory(double& resident, double& own) {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.rfind("VmRSS:", 0) == 0) resident = std::atof(line.c_str() + 6);
        if (line.rfind("RssAnon:", 0) == 0) own = std::atof(line.c_str() + 8);
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: timing MODEL GEV SHOWERS\n");
        return 2;
    }
    try {
        double before = 0, own_before = 0, after = 0, own_after = 0;
        memory(before, own_before);
        const double start = wall();
        const caloforge::Model model(arguments[1]);
        const double opened = wall();
        const cf_particle particle{1000 * std::atof(arguments[2]), {0, 0, 1}, model.info().particle, 0};
        const int showers = std::atoi(arguments[3]);
        std::vector<float> numbers;
        std::vector<cf_spot> spots;
        int64_t room = model.info().voxels, offsets[2], made = 0;
        if (model.info().points) caloforge::check(cf_most_points(model.get(), &particle, &room));
        numbers.resize(size_t(model.info().points ? 4 * room : room));
        spots.resize(size_t(room));
        double first = 0, first_processor = 0;
        std::vector<double> times, placing;
        for (int n = 0; n < showers; ++n) {
            const uint64_t number = uint64_t(n);
            uint8_t status;
            const double began = processor();
            if (model.info().points)
                caloforge::check(cf_generate_points(model.get(), 1, &particle, 1, &number, 0, room, numbers.data(), offsets, &status));
            else
                caloforge::check(cf_generate(model.get(), 1, &particle, 1, &number, 0, numbers.data(), &status));
            const double generated = processor();
            if (n == 0) first = wall() - start, first_processor = generated;
            if (status > CF_REDRAWN) throw caloforge::Error(CF_ARGUMENT, "the energy is outside the trained range");
            if (model.info().points)
                caloforge::check(cf_place_points(model.get(), offsets[1], numbers.data(), spots.data()));
            else if (cf_place(model.get(), 1, numbers.data(), 1, 1, &number, room, spots.data(), offsets) != CF_SUCCESS)
                offsets[1] = 0;  // without depths
            times.push_back(generated - began);
            placing.push_back(processor() - generated);
            made += offsets[1];
        }
        memory(after, own_after);
        std::sort(times.begin(), times.end());
        std::sort(placing.begin(), placing.end());
        const double ms = times.empty() ? 0 : 1000 * times[times.size() / 2], place = placing.empty() ? 0 : 1000 * placing[placing.size() / 2];
        std::printf("{\"ms\": %.6g, \"placing_ms\": %.6g, \"open_s\": %.6g, \"first_s\": %.6g, \"first_cpu_s\": %.6g, \"memory_kb\": %.0f, \"own_kb\": %.0f, "
                    "\"spots\": %.6g}\n",
                    ms, place, opened - start, first, first_processor, after - before, own_after - own_before, double(made) / std::max(showers, 1));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "timing: %s\n", error.what());
        return 1;
    }
    return 0;
}
