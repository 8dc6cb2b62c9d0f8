"""Models as compiled programs, which run in kernels of oneDNN or in Paddle Inference."""

from ppdiffusers.inference.compiled import compile_model, worth_compiling

__all__ = ["compile_model", "worth_compiling"]
