// Finding what fine-tuning changed: the task direction, where its order is cut, and the mask: kernels/select.py's cuts.
//
//   subtract   delta, and how many keys have each of the 2,048 high parts (11 bits)
//   count      how many keys have each middle part, or low part (10 bits each), of those with the right parts above
//   rank       how many keys of each 1,024 are above either cut, and equal to it
//   mark       mask and values: what is equal to a cut is told apart by its place
//
// Counts are kept in shared memory, and added to those of all blocks once.

#include "lanes.cuh"

#define WARPS 8                // of a block
#define THREADS (32 * WARPS)
#define STEPS 32               // a warp marks 32 elements at a time
#define HIGH 2048
#define PART 1024

__device__ __forceinline__ u32 key_of(float delta) { return __float_as_uint(delta) & 0x7FFFFFFF; }

__device__ __forceinline__ void clear(u32* bins, int size)
{
    for (int bin = threadIdx.x; bin < size; bin += THREADS) bins[bin] = 0;
    __syncthreads();
}

__device__ __forceinline__ void give(const u32* bins, u64* counts, int size)
{
    __syncthreads();
    for (int bin = threadIdx.x; bin < size; bin += THREADS)
        if (bins[bin]) atomicAdd(counts + bin, (u64)bins[bin]);
}

template <int BASE, int TUNED>
__device__ __forceinline__ float direction(typename Dtype<BASE>::Bits base, typename Dtype<TUNED>::Bits tuned)
{
    const double before = Dtype<BASE>::widen(base), after = Dtype<TUNED>::widen(tuned);
    if (TUNED == F64) return __double2float_rn(__dadd_rn(after, -before));
    const double rounded = Dtype<TUNED>::widen(Dtype<TUNED>::narrow(before));
    return __fadd_rn(__double2float_rn(after), -__double2float_rn(rounded));
}

// delta     filled: the task direction, float32
// counts    [2048], added to: how many keys have each high part; elements that did not change are not counted
template <int BASE, int TUNED>
__global__ void __launch_bounds__(THREADS)
    subtract(const typename Dtype<BASE>::Bits* __restrict__ base, const typename Dtype<TUNED>::Bits* __restrict__ tuned,
             float* delta, u64* counts, i64 size)
{
    __shared__ u32 bins[HIGH];
    clear(bins, HIGH);
    const i64 stride = (i64)gridDim.x * THREADS;
#pragma unroll 4
    for (i64 place = (i64)blockIdx.x * THREADS + threadIdx.x; place < size; place += stride) {
        const float change = direction<BASE, TUNED>(base[place], tuned[place]);
        delta[place] = change;
        const u32 key = key_of(change);
        if (key) atomicAdd(bins + (key >> 20), 1u);
    }
    give(bins, counts, HIGH);
}

__device__ __forceinline__ void count_key(u32* bins, u32 key, i64 shift, u32 one, u32 two)
{
    const u32 above = key >> (shift + 10), part = (key >> shift) & (PART - 1);
    if (above == one) atomicAdd(bins + part, 1u);
    else if (above == two) atomicAdd(bins + PART + part, 1u);
}

// Adds to counts [2][1024] how many keys have each part of 10 bits from `shift` on, where the bits above are `one`, or
// `two`.
__global__ void __launch_bounds__(THREADS)
    count(const float* __restrict__ delta, u64* counts, i64 size, i64 shift, i64 one, i64 two)
{
    __shared__ u32 bins[2 * PART];
    clear(bins, 2 * PART);
    const i64 stride = (i64)gridDim.x * THREADS, pieces = size / 4;
#pragma unroll 2
    for (i64 number = (i64)blockIdx.x * THREADS + threadIdx.x; number < pieces; number += stride) {
        const Piece<F32> piece = ((const Piece<F32>*)delta)[number];
#pragma unroll
        for (int part = 0; part < 4; part++) count_key(bins, piece.bits[part] & 0x7FFFFFFF, shift, (u32)one, (u32)two);
    }
    const i64 rest = 4 * pieces + threadIdx.x;
    if (blockIdx.x == 0 && rest < size) count_key(bins, key_of(delta[rest]), shift, (u32)one, (u32)two);
    give(bins, counts, 2 * PART);
}

// A warp counts the keys of 1,024 elements, into counts [blocks][4]: above the bottom cut's key, equal to it, above the
// top cut's key, equal to it.
__global__ void __launch_bounds__(THREADS)
    rank(const float* __restrict__ delta, i64* counts, i64 size, i64 bottom, i64 top)
{
    const int lane = threadIdx.x % 32;
    const i64 block = (i64)blockIdx.x * WARPS + threadIdx.x / 32, begin = block * 32 * STEPS;
    if (begin >= size) return;
    u32 above_bottom = 0, at_bottom = 0, above_top = 0, at_top = 0;
#pragma unroll 8
    for (int step = 0; step < STEPS; step++) {
        const i64 place = begin + 32 * step + lane;
        const u32 key = place < size ? key_of(delta[place]) : 0;
        above_bottom += key > (u32)bottom;
        at_bottom += key == (u32)bottom && place < size;
        above_top += key > (u32)top;
        at_top += key == (u32)top;
    }
    above_bottom = sum_up_to(above_bottom, lane);
    at_bottom = sum_up_to(at_bottom, lane);
    above_top = sum_up_to(above_top, lane);
    at_top = sum_up_to(at_top, lane);
    if (lane < 31) return;
    counts[4 * block] = above_bottom;
    counts[4 * block + 1] = at_bottom;
    counts[4 * block + 2] = above_top;
    counts[4 * block + 3] = at_top;
}

__device__ __forceinline__ i64 least(i64 one, i64 other) { return one < other ? one : other; }

// A warp marks 1,024 elements: what is among the first of the bottom cut, and not among the first of the top cut.
//
// before    [blocks][4]: what `rank` counts, added up over the blocks before
// mask      [blocks][32], filled
// values    filled with the delta of what stays, in the order of the elements
__global__ void __launch_bounds__(THREADS)
    mark(const float* __restrict__ delta, const i64* __restrict__ before, u32* mask, float* values, i64 size,
         i64 bottom, i64 bottom_ties, i64 top, i64 top_ties)
{
    const int lane = threadIdx.x % 32;
    const i64 block = (i64)blockIdx.x * WARPS + threadIdx.x / 32, begin = block * 32 * STEPS;
    if (begin >= size) return;
    const i64 low = before[4 * block + 1], high = before[4 * block + 3];
    const i64 first = before[4 * block] + least(bottom_ties, low);
    const i64 second = before[4 * block + 2] + least(top_ties, high);
    const i64 bottom_left = bottom_ties - low, top_left = top_ties - high;  // ties that still count, negative for none
    const u32 lower = below(lane);                                          // the lanes below
    i64 to = first > second ? first - second : 0;
    u32 bottom_seen = 0, top_seen = 0, mine = 0;
#pragma unroll 4
    for (int step = 0; step < STEPS; step++) {
        const i64 place = begin + 32 * step + lane;
        const float value = place < size ? delta[place] : 0;
        const u32 key = key_of(value);
        const bool at_bottom = key == (u32)bottom && key, at_top = key == (u32)top;
        const u32 bottoms = __ballot_sync(ALL_LANES, at_bottom), tops = __ballot_sync(ALL_LANES, at_top);
        const i64 bottom_rank = bottom_seen + __popc(bottoms & lower), top_rank = top_seen + __popc(tops & lower);
        const bool kept = key > (u32)bottom || (at_bottom && bottom_rank < bottom_left);
        const bool dropped = key > (u32)top || (at_top && top_rank < top_left);
        const u32 stays = __ballot_sync(ALL_LANES, kept && !dropped);
        if (kept && !dropped) values[to + __popc(stays & lower)] = value;
        if (lane == step) mine = stays;
        to += __popc(stays);
        bottom_seen += __popc(bottoms);
        top_seen += __popc(tops);
    }
    mask[block * 32 + lane] = mine;
}
