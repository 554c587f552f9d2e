"""The sparse layer on a GPU: router, alignment, grouped products and combination as Triton kernels.

Needs torch and Triton (the extra `train`), so nothing but `models.moe` on a CUDA device imports it. README.md beside
this file says which kernel does what, with which tiles and why; `twins.py` says the same in plain torch.
"""

from kernels.moe.entry import check, flags_for, sparse_experts

__all__ = ["check", "flags_for", "sparse_experts"]
