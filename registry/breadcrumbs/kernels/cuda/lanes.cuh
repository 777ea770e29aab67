// Lanes: what the kernels share: numbers, dtypes, and sums over the lanes of a warp.
//
// NVRTC compiles this for a GPU. Tests compile the same text for a CPU, after a header that stands in for the lanes and
// defines HOST_LANES.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define ALL_LANES 0xFFFFFFFFu

enum { BF16, F16, F32, F64 };   // as kernels/compose.py numbers the dtypes
enum { SUM, TIES, MEAN };       // and the methods

#ifndef HOST_LANES
__device__ __forceinline__ float half_to_float(u16 bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Two numbers, rounded to nearest even; the first is in the lower half.
__device__ __forceinline__ u32 to_halves(float first, float second)
{
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}

__device__ __forceinline__ u32 to_bfloats(float first, float second)
{
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}

__device__ __forceinline__ void prefetch(const void* address)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Where a float64 lies in shared memory: an address of 32 bits, so that nothing has to find out what it points to.
typedef u32 Shared;

__device__ __forceinline__ Shared shared_address(const double* place) { return (u32)__cvta_generic_to_shared(place); }

__device__ __forceinline__ double get(Shared at)
{
    double value;
    asm volatile("ld.shared.f64 %0, [%1];" : "=d"(value) : "r"(at) : "memory");
    return value;
}

__device__ __forceinline__ void put(Shared at, double value)
{
    asm volatile("st.shared.f64 [%0], %1;" ::"r"(at), "d"(value) : "memory");
}

// The bits below a bit.
__device__ __forceinline__ u32 below(u32 bit)
{
    u32 mask;
    asm("bmsk.clamp.b32 %0, 0, %1;" : "=r"(mask) : "r"(bit));
    return mask;
}

// The sum of a number over the lanes up to this one; shfl says itself which lanes have one so far below.
__device__ __forceinline__ u32 sum_up_to(u32 number, int)
{
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2)
        asm volatile(
            "{ .reg .u32 before; .reg .pred has; shfl.sync.up.b32 before|has, %0, %1, 0, 0xFFFFFFFF;"
            " @has add.u32 %0, %0, before; }"
            : "+r"(number)
            : "r"(distance));
    return number;
}
#endif

// The bits of a dtype as a number, the float64 that they stand for, and whether that is finite. `narrow` rounds to
// nearest even by way of float32; LEAST is the last digit of the exponent, which makes it overflow if it is all ones.
template <int DTYPE> struct Dtype;

template <> struct Dtype<BF16> {
    typedef u16 Bits;
    static const u32 LEAST = 0x0080;
    static __device__ __forceinline__ double widen(Bits bits) { return (double)__uint_as_float((u32)bits << 16); }
    static __device__ __forceinline__ bool finite(Bits bits) { return (bits & 0x7F80) != 0x7F80; }
    static __device__ __forceinline__ u32 narrow_two(double first, double second)
    {
        return to_bfloats(__double2float_rn(first), __double2float_rn(second));
    }
    static __device__ __forceinline__ Bits narrow(double value) { return (Bits)narrow_two(value, 0); }
};

template <> struct Dtype<F16> {
    typedef u16 Bits;
    static const u32 LEAST = 0x0400;
    static __device__ __forceinline__ double widen(Bits bits) { return (double)half_to_float(bits); }
    static __device__ __forceinline__ bool finite(Bits bits) { return (bits & 0x7C00) != 0x7C00; }
    static __device__ __forceinline__ u32 narrow_two(double first, double second)
    {
        return to_halves(__double2float_rn(first), __double2float_rn(second));
    }
    static __device__ __forceinline__ Bits narrow(double value) { return (Bits)narrow_two(value, 0); }
};

template <> struct Dtype<F32> {
    typedef u32 Bits;
    static __device__ __forceinline__ double widen(Bits bits) { return (double)__uint_as_float(bits); }
    static __device__ __forceinline__ bool finite(Bits bits) { return (bits & 0x7F800000) != 0x7F800000; }
    static __device__ __forceinline__ Bits narrow(double value) { return __float_as_uint(__double2float_rn(value)); }
};

template <> struct Dtype<F64> {
    typedef u64 Bits;
    static __device__ __forceinline__ double widen(Bits bits) { return __longlong_as_double((i64)bits); }
    static __device__ __forceinline__ bool finite(Bits bits)
    {
        return (bits & 0x7FF0000000000000ull) != 0x7FF0000000000000ull;
    }
    static __device__ __forceinline__ Bits narrow(double value) { return (Bits)__double_as_longlong(value); }
};

// Sixteen bytes of elements, which are loaded and stored at once.
template <int DTYPE> union alignas(16) Piece {
    static const int LENGTH = 16 / sizeof(typename Dtype<DTYPE>::Bits);
    typename Dtype<DTYPE>::Bits bits[LENGTH];
    u32 words[4];
};

// Rounds the elements of a piece; returns 0 if all of them are finite then.
__device__ __forceinline__ u32 round_piece(const double* values, Piece<F32>& piece)
{
    u32 over = 0;
#pragma unroll
    for (int number = 0; number < 4; number++) {
        piece.bits[number] = Dtype<F32>::narrow(values[number]);
        over |= (piece.bits[number] & 0x7FFFFFFF) + 0x00800000;
    }
    return over & 0x80000000;
}

__device__ __forceinline__ u32 round_piece(const double* values, Piece<F64>& piece)
{
    u32 over = 0;
#pragma unroll
    for (int number = 0; number < 2; number++) {
        piece.bits[number] = Dtype<F64>::narrow(values[number]);
        over |= ((u32)(piece.bits[number] >> 32) & 0x7FFFFFFF) + 0x00100000;
    }
    return over & 0x80000000;
}

template <int DTYPE> __device__ __forceinline__ u32 round_piece(const double* values, Piece<DTYPE>& piece)
{
    u32 over = 0;
#pragma unroll
    for (int number = 0; number < 4; number++) {
        piece.words[number] = Dtype<DTYPE>::narrow_two(values[2 * number], values[2 * number + 1]);
        over |= (piece.words[number] & 0x7FFF7FFF) + (Dtype<DTYPE>::LEAST << 16 | Dtype<DTYPE>::LEAST);
    }
    return over & 0x80008000;
}
