"""Ask the processor for memory that will be needed soon, so that later events do not wait for it."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE = ir.IntType(8)
_WORD = ir.IntType(32)


def _emit(context: Any, builder: Any, array_type: Any, array: Any, element: Any) -> Any:
    """Prefetch the cache line of the element with that flat index."""
    view = context.make_array(array_type)(context, builder, array)
    address = builder.bitcast(builder.gep(view.data, [element]), _BYTE.as_pointer())
    name = f"llvm.prefetch.p0{'' if getattr(address.type, 'is_opaque', True) else 'i8'}"
    kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [address, _WORD(0), _WORD(3), _WORD(1)])
    return context.get_dummy_value()


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Prefetch element `index` of a contiguous array, counted over all its dimensions; it must lie in the array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit(context, builder, signature.args[0], args[0], args[1])

    return types.void(array, types.int64), codegen
