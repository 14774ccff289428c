// C interface of the allocation; caloforge.kernels.ops.allocation calls it.
#include "allocation.hpp"

#include <numeric>

#include "parallel.hpp"

extern "C" void caloforge_allocate(int64_t showers, int layers, const int64_t* counts, const double* energies,
                                   const double* place, const double* depth, const double* energy, const double* gravity,
                                   const double* shift, float* points, int threads) {
    std::vector<int64_t> offsets(showers + 1, 0);
    for (int64_t n = 0; n < showers; ++n)
        offsets[n + 1] = std::accumulate(counts + n * layers, counts + (n + 1) * layers, offsets[n]);
    caloforge::parallel(showers, 8, threads, [&](int64_t n, int64_t end) {
        caloforge::Allocator allocator(layers);
        for (; n < end; ++n) {
            const int64_t first = offsets[n];
            allocator.run({layers, counts + n * layers, energies + n * layers, place + 2 * first, place + 2 * first + 1, 2,
                           depth + first, energy + first, gravity ? gravity + 2 * n : nullptr, shift + 2 * n * layers,
                           points + 4 * first});
        }
    });
}
