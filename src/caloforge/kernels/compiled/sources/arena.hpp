// Aligned memory for activations.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace caloforge {

// Blocks that a thread has given back: asking the system for memory of the size of a few activations, and for every page of it
// again, takes as long as the arithmetic on a single shower.
class SpareBlocks {
public:
    struct Block {
        void* data;
        size_t bytes;
    };

    // A block of at least `bytes` and not much more, or none.
    Block take(size_t bytes) {
        for (int k = 0; k < count_; ++k)
            if (blocks_[k].bytes >= bytes && blocks_[k].bytes / 2 <= bytes) {
                const Block found = blocks_[k];
                blocks_[k] = blocks_[--count_];
                return found;
            }
        return {nullptr, 0};
    }
    bool keep(Block block) {
        if (count_ == kMost || block.bytes > kLargest) return false;
        blocks_[count_++] = block;
        return true;
    }
    ~SpareBlocks() {
        while (count_) std::free(blocks_[--count_].data);
    }

    static SpareBlocks& of_this_thread() {
        static thread_local SpareBlocks blocks;
        return blocks;
    }

private:
    static constexpr int kMost = 6;
    static constexpr size_t kLargest = size_t(8) << 20;
    Block blocks_[kMost];
    int count_ = 0;
};

// Memory that starts on a huge page where the system has them; nothing is known of what is in it.
template <class S>
class Arena {
public:
    void allocate(size_t count) {
        release();
        const size_t huge = size_t(1) << 21, page = count * sizeof(S) < huge / 2 ? 4096 : huge;
        const size_t bytes = std::max((count * sizeof(S) + page - 1) / page * page, page);
        block_ = SpareBlocks::of_this_thread().take(bytes);
        if (!block_.data) {
            block_ = {std::aligned_alloc(page, bytes), bytes};
            if (!block_.data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
            if (page == huge) madvise(block_.data, bytes, MADV_HUGEPAGE);
#endif
        }
#ifdef CALOFORGE_POISON
        std::memset(block_.data, 0xff, block_.bytes);  // for a test: not a number, wherever something is read that was not written
#endif
    }
    S* data() const { return static_cast<S*>(block_.data); }
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { release(); }

private:
    void release() {
        if (block_.data && !SpareBlocks::of_this_thread().keep(block_)) std::free(block_.data);
        block_ = {nullptr, 0};
    }
    SpareBlocks::Block block_{nullptr, 0};
};

}  // namespace caloforge
