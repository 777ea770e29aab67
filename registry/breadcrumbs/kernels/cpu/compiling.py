"""Compiling the CPU kernels by numba: to objects that need no part of it when they run."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from numba import njit, types
from numba.core import sigutils
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic

from registry.breadcrumbs.kernels.cpu.intrinsics import array_of
from registry.breadcrumbs.kernels.cpu.target import Compiled

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False, "_nrt": False}
"""How all kernels are compiled: without numba's runtime, so that they cannot allocate arrays."""

SYSTEM = {"memcpy", "memmove", "memset", "pread"}
"""The functions of the C library that kernels may call; those of numba's own they cannot."""


def kernel(function: Callable[..., Any], any_order: bool = False) -> Any:
    """Compile a function into the kernels that call it.

    With `any_order`, floats may be added up in the order that suits the processor, which is the same every time.
    """
    return njit(function, fastmath={"reassoc"} if any_order else False, **OPTIONS)


def exported(signature: str, any_order: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that Python calls, for arguments and results of these types, in numba's notation."""

    def decorate(function: Callable[..., Any]) -> Any:
        made = kernel(function, any_order)
        made.signature = signature
        return made

    return decorate


def compile_kernel(module: str, name: str) -> Compiled:
    """Compile a kernel that Python calls.

    Raises:
        TypeError: It calls a function that is not there without numba.
    """
    function = getattr(import_module(f"{__package__}.{module}"), name)
    arguments, returns = sigutils.normalize_signature(function.signature)
    arrays_of = _arrays_of(arguments)

    def native(*given):
        return function(*arrays_of(given))

    options = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    taken = [kind for argument in arguments for kind in _flat(argument)]
    (made,) = njit(returns(types.StarArgTuple(taken)), **options)(native).overloads.values()
    called = {each.name for each in made.library._final_module.functions if each.is_declaration}
    if strange := {each for each in called if not each.startswith("llvm.")} - SYSTEM:
        raise TypeError(f"The kernel {module}.{name} calls {sorted(strange)}, which is not there without numba.")
    shapes = tuple((str(getattr(kind, "dtype", kind)), getattr(kind, "ndim", 0)) for kind in arguments)
    numbers = () if returns == types.none else tuple(returns) if isinstance(returns, types.BaseTuple) else (returns,)
    code = made.library._get_compiled_object()
    return Compiled(made.fndesc.llvm_func_name, shapes, tuple(map(str, numbers)), code)


def _flat(kind: Any) -> list[Any]:
    """Return what an argument is given as: an array as the address of its elements and its sizes."""
    return [types.CPointer(kind.dtype), *[types.int64] * kind.ndim] if isinstance(kind, types.Array) else [kind]


def _arrays_of(arguments: Sequence[Any]) -> Any:
    """Return an intrinsic that makes the arguments of a kernel of what is given for them: (tuple) -> tuple."""

    @intrinsic
    def arrays_of(typing_context: Any, given: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            flat, made = iter(unpack_tuple(builder, args[0])), []
            for kind in arguments:
                first = next(flat)
                sizes = [next(flat) for _ in _flat(kind)[1:]]
                made.append(array_of(context, builder, kind, first, sizes) if sizes else first)
            return context.make_tuple(builder, signature.return_type, made)

        return types.Tuple(arguments)(given), generate

    return arrays_of
