"""Schedulers: how a model's predictions turn noise into a sample, step by step."""

from ppdiffusers.schedulers.ddim import DDIMScheduler, DDIMSchedulerOutput
from ppdiffusers.schedulers.ddpm import DDPMScheduler
from ppdiffusers.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler
from ppdiffusers.schedulers.euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from ppdiffusers.schedulers.euler_discrete import EulerDiscreteScheduler
from ppdiffusers.schedulers.lms_discrete import LMSDiscreteScheduler
from ppdiffusers.schedulers.pndm import PNDMScheduler
from ppdiffusers.schedulers.scheduler import Scheduler, SchedulerOutput

__all__ = [
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "Scheduler",
    "SchedulerOutput",
]
