// Counting: how many values of each patch belong to every block of elements, and bitmasks of patches with indices.

#include "lanes.cuh"

#define WARPS 4  // of a block

// The number of indices below `stop`, of `count` that increase.
__device__ __forceinline__ i64 indices_below(const u8* indices, int width, i64 count, i64 stop)
{
    i64 from = 0, to = count;
    while (from < to) {
        const i64 middle = (from + to) / 2;
        const i64 index = width == 4 ? (i64)((const u32*)indices)[middle] : ((const i64*)indices)[middle];
        if (index < stop) from = middle + 1;
        else to = middle;
    }
    return from;
}

// A warp counts one patch's values in one block of elements, into counts [patches][blocks].
//
// table     [patches][5]: offset of the mask, offset of the values, dtype of the values, bytes of an index or 0 for a
//           bitmask, number of values
// first     the chunk's first element, from which indices count
// block     elements of a block: a multiple of 32, 1024 at most
__global__ void __launch_bounds__(32 * WARPS)
    count_values(const u8* __restrict__ arena, const i64* __restrict__ table, int* counts, i64 size, i64 first,
                 i64 patches, i64 block)
{
    const int lane = threadIdx.x % 32;
    const i64 blocks = (size + block - 1) / block, number = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
    if (number >= patches * blocks) return;
    const i64* row = table + 5 * (number / blocks);
    const i64 begin = number % blocks * block, end = begin + block < size ? begin + block : size;
    const u8* mask = arena + row[0];
    u32 count = 0;
    if (row[3] == 0) {
        const i64 at = begin + 32 * lane;
        if (at < end) count = __popc(*(const u32*)(mask + at / 8) & below(end - at < 32 ? (u32)(end - at) : 32));
    } else if (lane == 31) {
        const int width = (int)row[3];
        const i64 before = indices_below(mask, width, row[4], first + begin);
        count = (u32)(indices_below(mask, width, row[4], first + end) - before);
    }
    count = sum_up_to(count, lane);
    if (lane == 31) counts[number] = (int)count;
}

// Sets the bits of a patch with indices in a bitmask of zeros whose bits stand for the elements from `first` on.
__global__ void __launch_bounds__(32 * WARPS)
    set_bits(const u8* __restrict__ indices, u32* mask, i64 count, i64 width, i64 first)
{
    const i64 number = (i64)blockIdx.x * (32 * WARPS) + threadIdx.x;
    if (number >= count) return;
    const i64 index = (width == 4 ? (i64)((const u32*)indices)[number] : ((const i64*)indices)[number]) - first;
    atomicOr(mask + index / 32, 1u << (index % 32));
}
