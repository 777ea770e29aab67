"""SHA-256 (FIPS 180-4), by the instructions that x86 processors have for it: one stream, or two.

Each of these instructions waits for the one before it. Those of a second stream fill the gaps, so that two streams take
about as long as one.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import for_range, get_or_insert_function
from numba.extending import intrinsic

from registry.breadcrumbs.kernels.constants import BLOCK, root_bits
from registry.breadcrumbs.kernels.cpu.compiling import exported
from registry.breadcrumbs.kernels.cpu.intrinsics import I8, I32, I64, lanes, pointer

_WORDS = lanes(I32, 4)
_STEPS = 16
"""Steps of a block; each is four rounds."""


_CONSTANTS = tuple(root_bits(3))


def _shuffled(builder: Any, one: Any, two: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(one, two, ir.Constant(lanes(I32, len(order)), order))


def _absorber(count: int) -> Any:
    """Return an intrinsic that takes blocks of `count` streams into their states."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        states, blocks, sources = args[0], args[1], args[2:]
        undefined = ir.Constant(_WORDS, ir.Undefined)

        def call(name: str, *operands: Any) -> Any:
            kind = ir.FunctionType(_WORDS, [_WORDS] * len(operands))
            return builder.call(get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), operands)

        def word_pointer(stream: int, half: int) -> Any:
            place = ir.Constant(I64, 2 * stream + half)
            return pointer(context, builder, signature.args[0], states, place, 16, _WORDS)

        starts = []
        for stream in range(count):
            array_type, at_type = signature.args[2 + 2 * stream : 4 + 2 * stream]
            assert at_type is types.int64
            array, at = sources[2 * stream : 2 * stream + 2]
            starts.append(pointer(context, builder, array_type, array, at, 1, I8))
        slots = []
        for stream in range(count):
            abcd, efgh = (builder.load(word_pointer(stream, half), align=4) for half in (0, 1))
            slot = [builder.alloca(_WORDS) for _ in range(2)]  # as the instructions want them: ABEF and CDGH
            builder.store(_shuffled(builder, abcd, efgh, [5, 4, 1, 0]), slot[0])
            builder.store(_shuffled(builder, abcd, efgh, [7, 6, 3, 2]), slot[1])
            slots.append(slot)
        with for_range(builder, blocks) as loop:
            before = [[builder.load(half) for half in slot] for slot in slots]
            now = [list(halves) for halves in before]
            words: list[list[Any]] = [[] for _ in range(count)]
            for step in range(_STEPS):
                constants = ir.Constant(_WORDS, list(_CONSTANTS[4 * step : 4 * step + 4]))
                for stream in range(count):
                    if step < 4:
                        offset = builder.add(
                            builder.mul(loop.index, ir.Constant(I64, BLOCK)), ir.Constant(I64, 16 * step)
                        )
                        source = builder.bitcast(builder.gep(starts[stream], [offset]), lanes(I8, 16).as_pointer())
                        order = [4 * (byte // 4) + 3 - byte % 4 for byte in range(16)]
                        raw = builder.load(source, align=1)
                        swapped = _shuffled(builder, raw, ir.Constant(raw.type, ir.Undefined), order)
                        word = builder.bitcast(swapped, _WORDS)
                    else:
                        old, older, late, last = words[stream][-4:]
                        word = builder.add(call("sha256msg1", old, older), _shuffled(builder, late, last, [1, 2, 3, 4]))
                        word = call("sha256msg2", word, last)
                    words[stream].append(word)
                    added = builder.add(word, constants)
                    abef, cdgh = now[stream]
                    first = call("sha256rnds2", cdgh, abef, added)
                    rest = _shuffled(builder, added, undefined, [2, 3, 0, 0])
                    now[stream] = [call("sha256rnds2", abef, first, rest), first]
            for stream in range(count):
                for half in range(2):
                    builder.store(builder.add(now[stream][half], before[stream][half]), slots[stream][half])
        for stream in range(count):
            abef, cdgh = (builder.load(half) for half in slots[stream])
            builder.store(_shuffled(builder, abef, cdgh, [3, 2, 7, 6]), word_pointer(stream, 0), align=4)
            builder.store(_shuffled(builder, abef, cdgh, [1, 0, 5, 4]), word_pointer(stream, 1), align=4)
        return context.get_dummy_value()

    return generate


@intrinsic
def _absorb_one(typing_context: Any, states: Any, blocks: Any, one: Any, at: Any) -> Any:
    return types.void(states, types.int64, one, types.int64), _absorber(1)


@intrinsic
def _absorb_two(typing_context: Any, states: Any, blocks: Any, one: Any, at: Any, two: Any, there: Any) -> Any:
    return types.void(states, types.int64, one, types.int64, two, types.int64), _absorber(2)


@exported("void(uint32[::1], int64, uint8[::1], int64)")
def absorb_one(state, blocks, one, at):
    """Take blocks of a stream into its state.

    Args:
        state: uint32 [8], changed in place.
        blocks: How many.
        one, at: uint8, where they are from byte `at` on.
    """
    _absorb_one(state, blocks, one, at)


@exported("void(uint32[:, ::1], int64, uint8[::1], int64, uint8[::1], int64)")
def absorb_two(states, blocks, one, at, two, there):
    """Take blocks of two streams into their states: uint32 [2, 8]; else as `absorb_one`."""
    _absorb_two(states, blocks, one, at, two, there)
