// Stands in for a GPU's lanes on a CPU: every lane of a block is a fiber, blocks run one after another.
//
// A fiber runs until its lane waits for others. Lanes that could never all arrive, since one has ended or waits for
// something else, end the program with a message. What is NaN has the bits that a GPU gives it.

#pragma once
#define HOST_LANES

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index { unsigned x; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

enum State { READY, AT_WARP, AT_BLOCK, ENDED };
const size_t STACK = 1 << 17, MOST = 1024;

static jmp_buf scheduler, resume[MOST];
static ucontext_t beginning, fibers[MOST];
static char* stacks[MOST];
static std::vector<State> states;
static void (*body)(void*);
static void* given;
static unsigned long long shown[MOST];

inline void fail(const char* why)
{
    fprintf(stderr, "block %u, lane %u: %s\n", blockIdx.x, threadIdx.x, why);
    abort();
}

inline void wait(State state)
{
    const unsigned lane = threadIdx.x;
    states[lane] = state;
    if (!_setjmp(resume[lane])) _longjmp(scheduler, 1);
}

inline void live()
{
    for (;;) {
        body(given);
        wait(ENDED);  // until the next block
    }
}

// A fiber is made once, by system calls; from then on it is entered and left by jumps.
inline void enter(unsigned lane)
{
    threadIdx.x = lane;
    if (_setjmp(scheduler)) return;
    if (stacks[lane]) _longjmp(resume[lane], 1);
    stacks[lane] = (char*)malloc(STACK);
    getcontext(&fibers[lane]);
    fibers[lane].uc_stack.ss_sp = stacks[lane];
    fibers[lane].uc_stack.ss_size = STACK;
    makecontext(&fibers[lane], live, 0);
    swapcontext(&beginning, &fibers[lane]);
}

// Lets lanes from..to - 1 go on if all wait for this; returns whether some do.
inline bool release(unsigned from, unsigned to, State state)
{
    unsigned waiting = 0;
    for (unsigned lane = from; lane < to; lane++) waiting += states[lane] == state;
    if (waiting == to - from)
        for (unsigned lane = from; lane < to; lane++) states[lane] = READY;
    return waiting == to - from;
}

inline void run_block(unsigned lanes)
{
    states.assign(lanes, READY);
    for (;;) {
        for (unsigned lane = 0; lane < lanes; lane++)
            if (states[lane] == READY) enter(lane);
        bool moved = false;
        for (unsigned warp = 0; warp < lanes; warp += 32) moved |= release(warp, warp + 32, AT_WARP);
        if (!moved) moved = release(0, lanes, AT_BLOCK);
        if (moved) continue;
        for (unsigned lane = 0; lane < lanes; lane++)
            if (states[lane] != ENDED) fail("lanes wait for each other in vain");
        return;
    }
}

template <class T> T exchange(T number, unsigned from)
{
    const unsigned lane = threadIdx.x;
    memcpy(&shown[lane], &number, sizeof(T));
    wait(AT_WARP);
    T got;
    memcpy(&got, &shown[lane / 32 * 32 + from % 32], sizeof(T));
    wait(AT_WARP);
    return got;
}

template <class... A, size_t... N>
void call(void (*kernel)(A...), void** given, std::index_sequence<N...>) { kernel(*(A*)given[N]...); }

// Runs a kernel whose arguments `given` points to.
template <class... A> void launch(void (*kernel)(A...), unsigned grid, unsigned lanes, void** arguments)
{
    typedef std::pair<void (*)(A...), void**> Ask;
    Ask ask(kernel, arguments);
    given = &ask;
    body = [](void* asked) {
        call(((Ask*)asked)->first, ((Ask*)asked)->second, std::index_sequence_for<A...>());
    };
    if (lanes % 32 || lanes > MOST) fail("a block needs whole warps, 32 at most");
    blockDim.x = lanes;
    gridDim.x = grid;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++) run_block(lanes);
    given = nullptr;
}

}  // namespace host

#define EXPORT(symbol, ...)                                                                     \
    extern "C" void symbol(unsigned grid, unsigned lanes, void** arguments)                     \
    {                                                                                           \
        host::launch(__VA_ARGS__, grid, lanes, arguments);                                      \
    }

inline void whole(unsigned mask) { if (mask != 0xFFFFFFFFu) host::fail("only whole warps talk here"); }
inline void __syncthreads() { host::wait(host::AT_BLOCK); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { whole(mask); host::wait(host::AT_WARP); }
template <class T> T __shfl_up_sync(unsigned mask, T number, unsigned distance)
{
    whole(mask);
    const unsigned lane = threadIdx.x % 32;
    return host::exchange(number, lane < distance ? lane : lane - distance);
}
template <class T> T __shfl_down_sync(unsigned mask, T number, unsigned distance)
{
    whole(mask);
    const unsigned lane = threadIdx.x % 32;
    return host::exchange(number, lane + distance > 31 ? lane : lane + distance);
}
inline unsigned __ballot_sync(unsigned mask, int vote)
{
    whole(mask);
    const unsigned lane = threadIdx.x;
    host::shown[lane] = vote != 0;
    host::wait(host::AT_WARP);
    unsigned votes = 0;
    for (unsigned other = 0; other < 32; other++) votes |= (unsigned)host::shown[lane / 32 * 32 + other] << other;
    host::wait(host::AT_WARP);
    return votes;
}

inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int __clz(unsigned word) { return word ? __builtin_clz(word) : 32; }
inline int __ffs(unsigned word) { return __builtin_ffs((int)word); }

template <class T> T as(const void* number) { T got; memcpy(&got, number, sizeof(T)); return got; }
inline float __uint_as_float(unsigned bits) { return as<float>(&bits); }
inline unsigned __float_as_uint(float value) { return std::isnan(value) ? 0x7FFFFFFFu : as<unsigned>(&value); }
inline double __longlong_as_double(long long bits) { return as<double>(&bits); }
inline long long __double_as_longlong(double value) { return as<long long>(&value); }
inline float __double2float_rn(double value) { return (float)value; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fadd_rn(float a, float b) { return a + b; }
using std::fabs;

inline float half_to_float(unsigned short bits) { return (float)as<_Float16>(&bits); }
inline unsigned to_half(float value)
{
    const _Float16 half = (_Float16)value;
    return std::isnan(value) ? 0x7FFF : as<unsigned short>(&half);
}
inline unsigned to_bfloat(float value)
{
    const unsigned bits = as<unsigned>(&value);
    return std::isnan(value) ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline unsigned to_halves(float first, float second) { return to_half(second) << 16 | to_half(first); }
inline unsigned to_bfloats(float first, float second) { return to_bfloat(second) << 16 | to_bfloat(first); }
inline void prefetch(const void*) {}
typedef unsigned long long Shared;
inline Shared shared_address(const double* place) { return (Shared)place; }
inline double get(Shared at) { return *(const double*)at; }
inline void put(Shared at, double value) { *(double*)at = value; }
inline unsigned below(unsigned bit) { return bit < 32 ? (1u << bit) - 1 : 0xFFFFFFFFu; }
template <class T> T __ldg(const T* at) { return *at; }
inline unsigned sum_up_to(unsigned number, int lane)
{
    for (int distance = 1; distance < 32; distance *= 2) {
        const unsigned before = __shfl_up_sync(0xFFFFFFFFu, number, distance);
        if (lane >= distance) number += before;
    }
    return number;
}

template <class T> T atomicAdd(T* at, T number) { const T before = *at; *at += number; return before; }
template <class T> T atomicOr(T* at, T bits) { const T before = *at; *at |= bits; return before; }
