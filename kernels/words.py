"""Eight bytes at a time: unaligned loads and bit tricks that numba does not offer by itself."""

import numpy as np

from kernels.parts import Intrinsic

# Arrow's buffers are read-only; a kernel whose signature says so takes writable arrays too.
BYTES = "Array(uint8, 1, 'C', readonly=True)"
INT32S = "Array(int32, 1, 'C', readonly=True)"
INT64S = "Array(int64, 1, 'C', readonly=True)"
UINT64S = "Array(uint64, 1, 'C', readonly=True)"

ONES = np.uint64(0x0101010101010101)
HIGHS = np.uint64(0x8080808080808080)

# address_of(data) -> int64: of data[0], valid while the caller's caller holds the array. Helpers of a hot loop take
# addresses: numba counts references around each call that takes an array (20 ns).
address_of = Intrinsic("address_of")
load_word = Intrinsic("load_word")
load_half = Intrinsic("load_half")
load_byte = Intrinsic("load_byte")
store_byte = Intrinsic("store_byte")  # (address, int64): its lowest byte
store_word = Intrinsic("store_word")
trailing_zeros = Intrinsic("trailing_zeros")
fold = Intrinsic("fold")
