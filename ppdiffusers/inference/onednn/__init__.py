"""Programs as kernels of oneDNN, the library that Paddle's CPU wheels carry."""

from ppdiffusers.inference.onednn.library import BF16, FP32, NotEnoughMemory, OneDNNError, has_bfloat16, is_there
from ppdiffusers.inference.onednn.plan import Arena, Plan
from ppdiffusers.inference.onednn.planner import make_plan
from ppdiffusers.inference.onednn.values import UnsupportedOperator, Weights

__all__ = [
    "BF16",
    "FP32",
    "Arena",
    "NotEnoughMemory",
    "OneDNNError",
    "Plan",
    "UnsupportedOperator",
    "Weights",
    "has_bfloat16",
    "is_there",
    "make_plan",
]
