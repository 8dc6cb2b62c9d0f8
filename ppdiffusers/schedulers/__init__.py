"""Schedulers: how a model's predictions turn noise into a sample, step by step."""

from ppdiffusers.aliases import answer_to
from ppdiffusers.schedulers.ddim import DDIMScheduler, DDIMSchedulerOutput
from ppdiffusers.schedulers.ddim_inverse import DDIMInverseScheduler
from ppdiffusers.schedulers.ddpm import DDPMScheduler
from ppdiffusers.schedulers.deis_multistep import DEISMultistepScheduler
from ppdiffusers.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler
from ppdiffusers.schedulers.dpmsolver_singlestep import DPMSolverSinglestepScheduler
from ppdiffusers.schedulers.euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from ppdiffusers.schedulers.euler_discrete import EulerDiscreteScheduler
from ppdiffusers.schedulers.heun_discrete import HeunDiscreteScheduler
from ppdiffusers.schedulers.lcm import LCMScheduler, LCMSchedulerOutput
from ppdiffusers.schedulers.lms_discrete import LMSDiscreteScheduler
from ppdiffusers.schedulers.pndm import PNDMScheduler
from ppdiffusers.schedulers.scheduler import KarrasDiffusionSchedulers, Scheduler, SchedulerMixin, SchedulerOutput
from ppdiffusers.schedulers.unipc_multistep import UniPCMultistepScheduler

__all__ = [
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KarrasDiffusionSchedulers",
    "LCMScheduler",
    "LCMSchedulerOutput",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "Scheduler",
    "SchedulerMixin",
    "SchedulerOutput",
    "UniPCMultistepScheduler",
]

# `scheduling_ddim` and so on, as diffusers calls the files.
answer_to(
    __name__,
    "scheduling_ddim",
    "scheduling_ddim_inverse",
    "scheduling_ddpm",
    "scheduling_deis_multistep",
    "scheduling_dpmsolver_multistep",
    "scheduling_dpmsolver_singlestep",
    "scheduling_euler_ancestral_discrete",
    "scheduling_euler_discrete",
    "scheduling_heun_discrete",
    "scheduling_lcm",
    "scheduling_lms_discrete",
    "scheduling_pndm",
    "scheduling_unipc_multistep",
    "scheduling_utils",
)
