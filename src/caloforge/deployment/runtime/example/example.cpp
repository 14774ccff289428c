// Showers of an exported model as CSV: the spots of each, in the world. Usage: example [MODEL [GEV [SHOWERS]]] > spots.csv
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "caloforge/runtime.hpp"

int main(int count, char** arguments) {
    const std::string folder = count > 1 ? arguments[1] : CALOFORGE_EXPORT "/model";
    const double energy = (count > 2 ? std::atof(arguments[2]) : 20.0) * 1000;  // MeV
    const int showers = count > 3 ? std::atoi(arguments[3]) : 10;
    try {
        // Opened once; any number of threads may use it.
        const caloforge::Model model(folder);
        const cf_info& info = model.info();
        std::fprintf(stderr, "%s: %d layers, %g to %g MeV\n", info.kind, int(info.layers), info.energy[0], info.energy[1]);

        // Where the calorimeter is hit, and how its axes lie: here 1.5 m from the centre, along the world's x.
        caloforge::Frame frame;
        frame.origin = {1500, 0, 0};
        frame.x = {0, 0, -1}, frame.y = {0, 1, 0}, frame.z = {1, 0, 0};
        const std::array<double, 3> local = frame.to_local({1, 0, 0});  // direction of the particle

        const cf_particle particle{energy, {local[0], local[1], local[2]}, info.particle, 0};
        const std::vector<cf_particle> particles(size_t(showers > 0 ? showers : 0), particle);
        const uint64_t seed = 1, first = 0;  // of a run, and number of its first shower

        caloforge::Spots placed;
        std::vector<uint8_t> status;
        if (info.points) {
            const caloforge::PointShowers made = model.generate_points(particles, seed, first);
            status = made.status;
            placed = model.place(made);
        } else {
            const caloforge::VoxelShowers made = model.generate(particles, seed, first);
            status = made.status;
            placed = model.place(made, 4, seed, first);  // four spots for each voxel
        }

        std::printf("shower,x,y,z,energy,layer\n");
        for (size_t n = 0; n < particles.size(); ++n) {
            if (status[n] == CF_OUTSIDE || status[n] == CF_FAILED) {
                std::fprintf(stderr, "shower %zu: outside the trained range or rejected; Geant4 has to track it\n", n);
                continue;
            }
            for (int64_t k = placed.offsets[n]; k < placed.offsets[n + 1]; ++k) {
                const cf_spot& spot = placed.spots[size_t(k)];
                const std::array<double, 3> at = frame.to_world(spot);
                std::printf("%zu,%.3f,%.3f,%.3f,%.6g,%d\n", n, at[0], at[1], at[2], spot.energy, int(spot.layer));
            }
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "example: %s\n", error.what());
        return 1;
    }
    return 0;
}
