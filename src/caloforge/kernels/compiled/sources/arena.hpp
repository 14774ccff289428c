// Aligned memory for activations.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace caloforge {

// Memory that starts on a huge page where the system has them: the panels are far larger than the reach of small pages.
template <class S>
class Arena {
public:
    void allocate(size_t count) {
        release();
        const size_t huge = size_t(1) << 21, page = count * sizeof(S) < huge / 2 ? 4096 : huge;
        const size_t bytes = std::max((count * sizeof(S) + page - 1) / page * page, page);
        data_ = static_cast<S*>(std::aligned_alloc(page, bytes));
        if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (page == huge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
        std::memset(data_, 0, bytes);
    }
    S* data() const { return data_; }
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { release(); }

private:
    void release() {
        std::free(data_);
        data_ = nullptr;
    }
    S* data_ = nullptr;
};

}  // namespace caloforge
