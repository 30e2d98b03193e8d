"""What numba's compiler does not find by itself: 64 pixels compared at once, and the counting of bits, as LLVM's own instructions.

Each function is one to three instructions inside a kernel (LLVM chooses them for the processor it runs on: AVX-512, AVX2, NEON) and
cannot be called from Python. Positions are not checked: 64 elements from `at` on must lie within the array. Arrays are contiguous.
"""

# The code generators below are called by numba with its own objects, which have no types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 64
"""Pixels that one call looks at: as many as a word has bits."""

_BIT, _INT, _WORD = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_Generator = Callable[[Any, Any, Any, Any], Any]


def _instruction(typing: Callable[..., tuple[Any, _Generator]]) -> Callable[..., Any]:
    """What numba's kernels call; `typing` gets numba's context before the arguments, and callers do not."""
    return intrinsic(typing)


def _lanes(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """The 64 elements of `array` from `at` on, of any alignment, as one vector."""
    data = context.make_array(array_type)(context, builder, array).data
    vector = ir.VectorType(data.type.pointee, LANES)
    out = builder.load(builder.bitcast(builder.gep(data, [at]), vector.as_pointer()))
    out.align = 1
    return out


@_instruction
def nonzero_bits(_: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """uint64: bit i is set where `array[at + i]` is not 0; `at` uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _lanes(context, builder, signature.args[0], *arguments)
        return builder.bitcast(builder.icmp_unsigned("!=", lanes, ir.Constant(lanes.type, [0] * LANES)), _WORD)

    return types.uint64(array, types.uint64), generate


@_instruction
def change_bits(_: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """uint64: bit i is set where `array[at + i]` is not `array[at + i - 1]`; `at` uint64, at least 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at = arguments
        here = _lanes(context, builder, signature.args[0], array, at)
        before = _lanes(context, builder, signature.args[0], array, builder.sub(at, ir.Constant(_WORD, 1)))
        return builder.bitcast(builder.icmp_unsigned("!=", here, before), _WORD)

    return types.uint64(array, types.uint64), generate


@_instruction
def trailing_zeros(_: Any, word: Any) -> tuple[Any, _Generator]:
    """uint64: the place of the lowest set bit of `word` uint64; 64 when none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_BIT, 0))

    return types.uint64(types.uint64), generate


@_instruction
def count_ones(_: Any, word: Any) -> tuple[Any, _Generator]:
    """uint64: set bits of `word` uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@_instruction
def fetch_ahead(_: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """Begin to bring `array[at]` to the cache; `at` uint64, which may lie beyond the array: nothing is read then.

    A processor foresees a walk through memory only up to the end of a page; rows of a large image cross one all the time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        # To read (0), to keep in all caches (3), data (1).
        builder.call(function, [place, ir.Constant(_INT, 0), ir.Constant(_INT, 3), ir.Constant(_INT, 1)])
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate
