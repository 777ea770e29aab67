// Conflicts: what kernels/conflicts.py measures of the patches of one base, in a chunk of one tensor.
//
//   own       of each patch: the sums of |a| and of a^2 over its values
//   census    how many elements exactly 1, 2, ... patches touch
//   pairs     of each pair: counts and sums over the elements that both touch
//
// Sums are float64. A block leaves its own, so they are added in one order however blocks are scheduled.

#include "lanes.cuh"

#define WARPS 4   // of a block
#define PLANES 16 // bits of the most patches that may touch a tensor
#define SUMS 7    // of a pair: overlap, opposed, overlap mass, opposed mass, dot, first squares, second squares

// Adds up a number of each lane of a block, in one order; the first lane gets it.
__device__ __forceinline__ double sum_of_block(double number, double* room)
{
    for (int distance = 16; distance; distance /= 2)
        number = __dadd_rn(number, __shfl_down_sync(ALL_LANES, number, distance));
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = number;
    __syncthreads();
    double total = 0;
    for (int warp = 0; warp < WARPS; warp++) total = __dadd_rn(total, room[warp]);
    __syncthreads();
    return total;
}

__device__ __forceinline__ double value_at(const u8* values, int code, i64 place)
{
    if (code == BF16) return Dtype<BF16>::widen(((const u16*)values)[place]);
    if (code == F16) return Dtype<F16>::widen(((const u16*)values)[place]);
    return Dtype<F32>::widen(((const u32*)values)[place]);
}

// table     [patches][5]: offset of the mask, offset of the values, dtype of the values, 0, number of values
// sums      [patches][slices][2], filled
__global__ void __launch_bounds__(32 * WARPS)
    own(const u8* __restrict__ arena, const i64* __restrict__ table, double* sums, i64 slices)
{
    __shared__ double room[WARPS];
    const i64* row = table + 5 * (blockIdx.x / slices);
    const u8* values = arena + row[1];
    const int code = (int)row[2];
    double l1 = 0, squares = 0;
    for (i64 place = blockIdx.x % slices * (32 * WARPS) + threadIdx.x; place < row[4]; place += slices * (32 * WARPS)) {
        const double value = value_at(values, code, place);
        l1 = __dadd_rn(l1, fabs(value));
        squares = __fma_rn(value, value, squares);
    }
    l1 = sum_of_block(l1, room);
    squares = sum_of_block(squares, room);
    if (threadIdx.x) return;
    sums[2 * blockIdx.x] = l1;
    sums[2 * blockIdx.x + 1] = squares;
}

__device__ __forceinline__ u32 live_word(const u8* mask, i64 at, i64 size)
{
    if (at >= size) return 0;
    const u32 word = *(const u32*)(mask + at / 8);
    return word & below(size - at < 32 ? (u32)(size - at) : 32);
}

// A lane counts the patches that touch each of 32 elements: plane p has bit p of every count.
//
// counts    [patches + 1], added to from element 1 on
__global__ void __launch_bounds__(32 * WARPS)
    census(const u8* __restrict__ arena, const i64* __restrict__ table, u64* counts, i64 size, i64 patches)
{
    const i64 at = ((i64)blockIdx.x * (32 * WARPS) + threadIdx.x) * 32;
    u32 planes[PLANES] = {}, any = 0;
    for (i64 patch = 0; patch < patches; patch++) {
        u32 carried = live_word(arena + table[5 * patch], at, size);
        any |= carried;
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++) {
            const u32 old = planes[plane];
            planes[plane] = old ^ carried;
            carried &= old;
        }
    }
    for (i64 number = 1; number <= patches; number++) {
        u32 same = any;
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++) same &= number >> plane & 1 ? planes[plane] : ~planes[plane];
        const u32 found = sum_up_to(__popc(same), threadIdx.x % 32);
        if (threadIdx.x % 32 == 31 && found) atomicAdd(counts + number, (u64)found);
    }
}

struct Side {
    const u8* values;
    int code;
    u32 word, start;  // the lane's bits, and where its values start
};

__device__ __forceinline__ Side look(const u8* arena, const i64* row, const int* starts, i64 block, int lane, i64 size)
{
    Side side;
    side.values = arena + row[1];
    side.code = (int)row[2];
    side.word = live_word(arena + row[0], (block * 32 + lane) * 32, size);
    const u32 bits = __popc(side.word);
    side.start = starts[block] + sum_up_to(bits, lane) - bits;
    return side;
}

__device__ __forceinline__ double value_of(const Side& side, u32 bit)
{
    return value_at(side.values, side.code, side.start + __popc(side.word & below(bit)));
}

// starts    [patches][blocks + 1]: how many values come before each 1,024 elements, and how many there are
// pairs     [pairs][2]: rows of the table
// sums      [pairs][slices][7], filled: counts are exact
__global__ void __launch_bounds__(32 * WARPS)
    pairs(const u8* __restrict__ arena, const i64* __restrict__ table, const int* __restrict__ starts,
          const i64* __restrict__ pairs, double* sums, i64 size, i64 slices)
{
    __shared__ double room[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 blocks = (size + 1023) / 1024, pair = blockIdx.x / slices;
    const i64 one = pairs[2 * pair], two = pairs[2 * pair + 1];
    double found[SUMS] = {};
    for (i64 block = blockIdx.x % slices * WARPS + warp; block < blocks; block += slices * WARPS) {
        const Side a = look(arena, table + 5 * one, starts + one * (blocks + 1), block, lane, size);
        const Side b = look(arena, table + 5 * two, starts + two * (blocks + 1), block, lane, size);
        u32 both = a.word & b.word;
        found[0] += __popc(both);
        while (both) {
            const u32 bit = 31 - __clz(both);
            both &= below(bit);
            const double first = value_of(a, bit), second = value_of(b, bit), product = __dmul_rn(first, second);
            const double less = fabs(first) < fabs(second) ? fabs(first) : fabs(second);
            const bool against = product < 0;  // exact: the least product is 2^-298
            found[1] += against;
            found[2] = __dadd_rn(found[2], less);
            found[3] = __dadd_rn(found[3], against ? less : 0);
            found[4] = __dadd_rn(found[4], product);
            found[5] = __fma_rn(first, first, found[5]);
            found[6] = __fma_rn(second, second, found[6]);
        }
    }
#pragma unroll
    for (int number = 0; number < SUMS; number++) {
        const double total = sum_of_block(found[number], room);
        if (threadIdx.x == 0) sums[SUMS * (i64)blockIdx.x + number] = total;
    }
}
