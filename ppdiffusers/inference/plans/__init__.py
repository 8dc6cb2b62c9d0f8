"""Programs as kernels of oneDNN."""

from ppdiffusers.inference.plans.plan import Arena, Plan
from ppdiffusers.inference.plans.planner import make_plan
from ppdiffusers.inference.plans.values import UnsupportedOperator, Weights

__all__ = ["Arena", "Plan", "UnsupportedOperator", "Weights", "make_plan"]
