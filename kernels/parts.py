"""Pieces of kernels: compiled into the kernels that call them, never loaded on their own."""

import numba

# Kernels of one event at a time touch dozens of arrays per event; counting references to them, atomically, would take
# four fifths of the time. Without numba's runtime there is nothing to count: arrays come in as arguments, none is made.
NO_RUNTIME = {"_nrt": False}

part = numba.njit(nogil=True, **NO_RUNTIME)

# What runs for every event becomes part of its caller: a call hands over seven words for each array, a hundred in all,
# and a dozen of such calls an event took as long as the work itself.
hot = numba.njit(nogil=True, forceinline=True, **NO_RUNTIME)
