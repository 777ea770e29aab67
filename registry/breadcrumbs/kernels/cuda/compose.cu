// Composing a chunk of one tensor by walking the bits that are set: the arithmetic of kernels/compose.py, to its bits.
//
//   a lane owns SPAN elements, and walks the set bits of each patch's mask over them, from the last to the first
//   float64 sums (SUM), or masses and weights (TIES, MEAN), lie in shared memory as [element][state][lane]: a lane
//       touches its own column only, so there is neither a bank conflict nor a barrier
//   where a lane's values end: `starts` of the warp's elements + the bits set in the lanes up to it
//   a patch with indices is scattered: a lane takes an index, whatever column that is in
//
// While a patch is walked, the next one's values are on their way to L2, and the mask of the one after is being loaded.
// Every product of two float32 is exact in float64, so it makes no difference that it is fused with the addition.
// out may be base.

#include "lanes.cuh"

#define WARPS 4  // of a block: 32 KB of shared memory, so six blocks on a multiprocessor of 228 KB

#define MIXED 3  // patches have values of several dtypes, or indices; else a KIND is the dtype of all, with bitmasks

template <int METHOD> struct Method;
template <> struct Method<SUM> { static const int SPAN = 32, STATES = 1; };
template <> struct Method<MEAN> { static const int SPAN = 16, STATES = 2; };
template <> struct Method<TIES> { static const int SPAN = 8, STATES = 4; };

// Of a patch where a warp is: the lane's bits, and the first of the warp's values and the one after its last.
struct Part {
    u32 word, start, stop;
};

// Begins to load a patch's part. `row` is the table's, `counts` is that of the warp in starts, `mask` is where the
// lane's bits were if the mask were at 0, and `alive` has the bits of the lane's elements.
template <int SPAN, int KIND>
__device__ __forceinline__ Part fetch(const i64* __restrict__ row, const int* __restrict__ counts, const u8* mask,
                                      u32 alive)
{
    Part part = {0, (u32)counts[0], (u32)counts[1]};
    if (!alive || (KIND == MIXED && (int)row[3])) return part;
    if (SPAN == 32) part.word = __ldg((const u32*)(mask + row[0]));
    else if (SPAN == 16) part.word = __ldg((const u16*)(mask + row[0]));
    else part.word = __ldg(mask + row[0]);
    return part;
}

// Finds where the lane's values end, and has the warp's values brought to L2.
template <int KIND>
__device__ __forceinline__ u32 aim(Part& part, const u8* arena, const i64* __restrict__ row, u32 alive, int lane)
{
    part.word &= alive;
    const u32 width = (KIND == MIXED ? (int)row[2] : KIND) == F32 ? 4 : 2, ahead = part.start * width + 128 * lane;
    if (ahead < part.stop * width) prefetch(arena + row[1] + ahead);
    return part.start + sum_up_to(__popc(part.word), lane);
}

// Adds a value to what a column holds of one element, whose states are STEP bytes apart.
#define STEP 256

template <int METHOD> __device__ __forceinline__ void add(Shared state, double scale, double value)
{
    if (METHOD == SUM) {
        put(state, __fma_rn(scale, value, get(state)));
        return;
    }
    const double product = __dmul_rn(scale, value);
    if (METHOD == MEAN) {
        put(state, __dadd_rn(get(state), product));
        put(state + STEP, __dadd_rn(get(state + STEP), scale));
        return;
    }
    if (product == 0) return;
    const Shared side = product < 0 ? state + 2 * STEP : state;  // mass and weight of plus, then of minus
    put(side, __dadd_rn(get(side), fabs(product)));
    put(side + STEP, __dadd_rn(get(side + STEP), scale));
}

template <int METHOD, int CODE>
__device__ __forceinline__ void walk(Shared column, double scale, const u8* from, u32 word, u32 end)
{
    typedef typename Dtype<CODE>::Bits Bits;
    const Bits* values = (const Bits*)from;
    while (word) {
        const u32 bit = 31 - __clz(word);
        word &= below(bit);
        add<METHOD>(column + bit * (Method<METHOD>::STATES * STEP), scale, Dtype<CODE>::widen(__ldg(values + --end)));
    }
}

// Adds the values whose indices, less `first`, are among the warp's elements; `columns` is the first lane's, and
// `counts` the warp's in starts.
template <int METHOD, int CODE>
__device__ __forceinline__ void scatter(Shared columns, double scale, const u8* from, const u8* indices, int width,
                                        const int* __restrict__ counts, i64 first, int lane)
{
    typedef typename Dtype<CODE>::Bits Bits;
    const Bits* values = (const Bits*)from;
    const u32 span = Method<METHOD>::SPAN;
    __syncwarp();  // other lanes' columns are written
    const u32 stop = counts[1];
    for (u32 number = counts[0] + lane; number < stop; number += 32) {
        const i64 index = width == 4 ? (i64)__ldg((const u32*)indices + number) : __ldg((const i64*)indices + number);
        const u32 place = (u32)(index - first);
        const Shared state = columns + place % span * (Method<METHOD>::STATES * STEP) + place / span * 8;
        add<METHOD>(state, scale, Dtype<CODE>::widen(__ldg(values + number)));
    }
    __syncwarp();
}

// The float64 of an element, given what its column holds.
template <int METHOD> __device__ __forceinline__ double combine(Shared state, double base, double alpha)
{
    if (METHOD == SUM) return get(state);
    double mass = get(state), weight = get(state + STEP);
    if (METHOD == TIES) {
        const double against = get(state + 2 * STEP);
        if (!(mass >= against)) {
            mass = -against;
            weight = get(state + 3 * STEP);
        }
    }
    if (weight == 0) return base;
    return __fma_rn(alpha, (double)__double2float_rn(__ddiv_rn(mass, weight)), base);
}

// Rounds an element. What is not finite keeps the base's bits where the base was not finite either, and is counted as
// lost elsewhere; no sum is finite where the base is not.
template <int DTYPE>
__device__ __forceinline__ typename Dtype<DTYPE>::Bits finish(double value, const typename Dtype<DTYPE>::Bits* base,
                                                              u32& lost)
{
    const typename Dtype<DTYPE>::Bits rounded = Dtype<DTYPE>::narrow(value);
    if (Dtype<DTYPE>::finite(rounded)) return rounded;
    const typename Dtype<DTYPE>::Bits before = *base;
    if (!Dtype<DTYPE>::finite(before)) return before;
    lost++;
    return rounded;
}

// arena     bitmasks or indices, and values, of the patches; bitmasks and values lie on multiples of their element
// base, out the elements, on multiples of 16 bytes
// table     [patches][5]: offset of the mask, offset of the values, dtype of the values, bytes of an index or 0 for a
//           bitmask, number of values
// scales    [patches + 1], and alpha after them
// starts    [patches][blocks + 1]: how many values come before each 32 * SPAN elements, and how many there are
// lost      increased by how many results are not finite where the base was
// first     the chunk's first element, from which indices count
template <int DTYPE, int METHOD, int KIND>
__global__ void __launch_bounds__(32 * WARPS)
    compose(const u8* __restrict__ arena, const u8* base, u8* out, const i64* __restrict__ table,
            const double* __restrict__ scales, const int* __restrict__ starts, u64* lost, i64 size, i64 first,
            i64 patches)
{
    typedef typename Dtype<DTYPE>::Bits Bits;
    const int SPAN = Method<METHOD>::SPAN, STATES = Method<METHOD>::STATES, LENGTH = Piece<DTYPE>::LENGTH;
    __shared__ double room[WARPS][SPAN * STATES * 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 block = (i64)blockIdx.x * WARPS + warp, blocks = (size + 32 * SPAN - 1) / (32 * SPAN);
    if (block >= blocks) return;
    const i64 at = (block * 32 + lane) * SPAN;
    const int live = (int)(size - at < 0 ? 0 : size - at < SPAN ? size - at : SPAN);
    const Bits* mine = (const Bits*)base + at;
    Bits* to = (Bits*)out + at;
    const Shared columns = shared_address(room[warp]), column = columns + 8 * lane;
    const u32 alive = below(live);

    if (METHOD != SUM) {
#pragma unroll
        for (int state = 0; state < SPAN * STATES; state++) put(column + STEP * state, 0);
    } else if (live == SPAN) {
#pragma unroll
        for (int start = 0; start < SPAN; start += LENGTH) {
            const Piece<DTYPE> piece = *(const Piece<DTYPE>*)(mine + start);
#pragma unroll
            for (int number = 0; number < LENGTH; number++)
                put(column + STEP * (start + number), Dtype<DTYPE>::widen(piece.bits[number]));
        }
    } else {
        for (int number = 0; number < live; number++) put(column + STEP * number, Dtype<DTYPE>::widen(mine[number]));
    }

    const u8* mask = arena + (block * 32 + lane) * (SPAN / 8);
    const int* counts = starts + block;
    const i64* row = table;
    Part next = {};
    u32 word = 0, end = 0;
    if (patches > 0) {
        Part now = fetch<SPAN, KIND>(row, counts, mask, alive);
        end = aim<KIND>(now, arena, row, alive, lane);
        word = now.word;
    }
    if (patches > 1) next = fetch<SPAN, KIND>(row + 5, counts + (blocks + 1), mask, alive);
    counts += 2 * (blocks + 1);
    for (int left = (int)patches; left > 0; left--) {
        Part after = {};
        u32 next_end = 0;
        if (left > 2) after = fetch<SPAN, KIND>(row + 10, counts, mask, alive);
        if (left > 1) next_end = aim<KIND>(next, arena, row + 5, alive, lane);
        const u8* values = arena + row[1];
        const double scale = *scales++;
        if (KIND != MIXED) {
            walk<METHOD, KIND == MIXED ? BF16 : KIND>(column, scale, values, word, end);
        } else {
            const int code = (int)row[2], width = (int)row[3];
            const u8* indices = arena + row[0];
            const int* here = counts - 2 * (blocks + 1);
            const i64 from = first + block * 32 * SPAN;
            if (code == BF16 && width == 0) walk<METHOD, BF16>(column, scale, values, word, end);
            else if (code == F16 && width == 0) walk<METHOD, F16>(column, scale, values, word, end);
            else if (width == 0) walk<METHOD, F32>(column, scale, values, word, end);
            else if (code == BF16) scatter<METHOD, BF16>(columns, scale, values, indices, width, here, from, lane);
            else if (code == F16) scatter<METHOD, F16>(columns, scale, values, indices, width, here, from, lane);
            else scatter<METHOD, F32>(columns, scale, values, indices, width, here, from, lane);
        }
        word = next.word;
        end = next_end;
        next = after;
        row += 5;
        counts += blocks + 1;
    }

    const double alpha = METHOD == SUM ? 1 : *scales;  // which comes after the patches' own
    u32 bad = 0;
    if (live == SPAN) {
#pragma unroll
        for (int start = 0; start < SPAN; start += LENGTH) {
            Piece<DTYPE> piece = {};
            if (METHOD != SUM) piece = *(const Piece<DTYPE>*)(mine + start);
            double values[LENGTH];
#pragma unroll
            for (int number = 0; number < LENGTH; number++) {
                const double before = METHOD == SUM ? 0 : Dtype<DTYPE>::widen(piece.bits[number]);
                values[number] = combine<METHOD>(column + STEP * STATES * (start + number), before, alpha);
            }
            if (round_piece(values, piece)) {
                for (int number = 0; number < LENGTH; number++)
                    piece.bits[number] = finish<DTYPE>(values[number], mine + start + number, bad);
            }
            *(Piece<DTYPE>*)(to + start) = piece;
        }
    } else {
        for (int number = 0; number < live; number++) {
            const double before = METHOD == SUM ? 0 : Dtype<DTYPE>::widen(mine[number]);
            const double value = combine<METHOD>(column + STEP * STATES * number, before, alpha);
            to[number] = finish<DTYPE>(value, mine + number, bad);
        }
    }
    if (bad) atomicAdd(lost, (u64)bad);
}
