// Work shared out among the threads that PyTorch already has: its OpenMP workers, if their library is known, else fresh ones.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace caloforge {

// GOMP_parallel of the OpenMP library that PyTorch runs on (LLVM's and Intel's have it too). Threads of our own, or those of a
// second library, would have to share the cores with PyTorch's workers, which go on spinning for a while after each operation.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
inline std::atomic<OpenMpParallel>& openmp_parallel() {
    static std::atomic<OpenMpParallel> entry{nullptr};
    return entry;
}

// body(k) for every k < parts, each once, on at most `threads` threads.
template <class Body>
void run_parts(int parts, int threads, const Body& body) {
    if (parts <= 1 || threads <= 1) {
        for (int k = 0; k < parts; ++k) body(k);
        return;
    }
    struct Shared {
        const Body* body;
        int parts;
        std::atomic<int> next;
    } shared{&body, parts, {0}};
    const auto work = [](void* given) {
        auto* s = static_cast<Shared*>(given);
        for (int k = s->next++; k < s->parts; k = s->next++) (*s->body)(k);
    };
    if (const OpenMpParallel entry = openmp_parallel()) {
        entry(work, &shared, unsigned(threads), 0);  // always PyTorch's number: another one would end some of its workers
        return;
    }
    std::vector<std::thread> helpers;
    for (int k = 1; k < std::min(parts, threads); ++k) helpers.emplace_back(work, static_cast<void*>(&shared));
    work(&shared);
    for (auto& helper : helpers) helper.join();
}

// Spread `count` elements over threads in multiples of `grain`; body(first, end) is called once for each thread.
template <class Body>
void parallel(int64_t count, int64_t grain, int threads, const Body& body) {
    const int64_t grains = (count + grain - 1) / grain;
    const int parts = int(std::max<int64_t>(1, std::min<int64_t>(threads, grains)));
    run_parts(parts, threads, [&](int k) { body(grains * k / parts * grain, std::min(count, grains * (k + 1) / parts * grain)); });
}

}  // namespace caloforge
