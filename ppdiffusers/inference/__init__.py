"""Models as compiled programs, which run in kernels of oneDNN or in Paddle Inference."""

from ppdiffusers.inference.compiled import CompiledModel, compile_model, worth_compiling
from ppdiffusers.inference.deep_cache import DeepCache

__all__ = ["CompiledModel", "DeepCache", "compile_model", "worth_compiling"]
