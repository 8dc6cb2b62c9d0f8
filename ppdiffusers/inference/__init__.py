"""Models as compiled programs: Paddle Inference, or OpenVINO where it is installed."""

from ppdiffusers.inference.compiled import compile_model, worth_compiling

__all__ = ["compile_model", "worth_compiling"]
