// Which of the packaged kernels this processor can run; compiled for any processor of the architecture.
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

bool has(unsigned leaf, int word, uint32_t bits) {
    unsigned r[4] = {0, 0, 0, 0};
    return __get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]) && (r[word] & bits) == bits;
}

// Registers that the operating system saves for each program.
uint32_t saved_registers() {
    if (!has(1, 2, 1u << 27)) return 0;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

}  // namespace

// 0 or the level of the x86-64 psABI: 2, 3 or 4.
extern "C" int caloforge_processor_level() {
    constexpr int ebx = 1, ecx = 2;
    // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF
    if (!has(1, ecx, 1u | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23) || !has(0x80000001u, ecx, 1u)) return 0;
    // FMA, MOVBE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT
    if (!has(1, ecx, 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29) || !has(7, ebx, 1u << 3 | 1u << 5 | 1u << 8) ||
        !has(0x80000001u, ecx, 1u << 5) || (saved_registers() & 0x6) != 0x6)
        return 2;
    // AVX512 F, DQ, CD, BW, VL
    if (!has(7, ebx, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) || (saved_registers() & 0xe6) != 0xe6) return 3;
    return 4;
}
#else
// All processors of this architecture have what the kernels need.
extern "C" int caloforge_processor_level() { return 1; }
#endif
