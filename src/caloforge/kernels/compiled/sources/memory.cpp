// What kernels share with PyTorch: memory for packed weights, and workers.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.hpp"

// Ask for huge pages: packed weights are far larger than the reach of small ones. Memory of whole huge pages, not yet written to.
extern "C" void caloforge_huge_pages(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    madvise(memory, size_t(bytes), MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// A hash of a few words of each tensor, to notice weights that were changed behind PyTorch's version counters.
extern "C" uint64_t caloforge_fingerprint(const char* const* data, const int64_t* bytes, int tensors) {
    constexpr int64_t samples = 8;
    uint64_t hash = 1469598103934665603ULL;
    for (int k = 0; k < tensors; ++k) {
        const int64_t words = bytes[k] / 4;
        for (int64_t j = 0; j < std::min(samples, words); ++j) {
            uint32_t word;
            std::memcpy(&word, data[k] + 4 * ((words - 1) * j / std::max<int64_t>(1, samples - 1)), 4);
            hash = (hash ^ word) * 1099511628211ULL;
        }
    }
    return hash;
}

// Use the workers that PyTorch already has: `entry` is GOMP_parallel of its OpenMP library, or null.
extern "C" void caloforge_use_openmp(void* entry) {
    caloforge::openmp_parallel() = reinterpret_cast<caloforge::OpenMpParallel>(entry);
}
