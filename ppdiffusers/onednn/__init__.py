"""oneDNN, the library of kernels that Paddle's CPU wheels carry: `library` is its C interface, `kernels` its operators.

Two tenants: the compiled programs of `inference.plans`, and the layers as they run by themselves, `layers.basic`.
"""

from ppdiffusers.onednn.library import BF16, FP32, NotEnoughMemory, OneDNNError, has_bfloat16, is_there

__all__ = ["BF16", "FP32", "NotEnoughMemory", "OneDNNError", "has_bfloat16", "is_there"]
