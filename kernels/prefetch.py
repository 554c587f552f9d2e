"""Ask the processor for memory that will be needed soon, so that later events do not wait for it."""

from kernels.parts import Intrinsic

prefetch = Intrinsic(
    "prefetch"
)  # (array, element): the element is counted over all dimensions and must lie in the array
