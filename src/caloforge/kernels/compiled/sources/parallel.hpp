// Work shared out among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace caloforge {

// Spread `count` elements over threads in multiples of `grain`; body(first, end) is called once by each thread.
template <class Body>
void parallel(int64_t count, int64_t grain, int threads, Body body) {
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(threads, grains));
    auto part = [&](int64_t k) { body(grains * k / workers * grain, std::min(count, grains * (k + 1) / workers * grain)); };
    std::vector<std::thread> helpers;
    for (int64_t k = 1; k < workers; ++k) helpers.emplace_back(part, k);
    part(0);
    for (auto& helper : helpers) helper.join();
}

}  // namespace caloforge
