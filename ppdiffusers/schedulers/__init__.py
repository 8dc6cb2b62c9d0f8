"""Schedulers: how a model's predictions turn noise into a sample, step by step."""

from ppdiffusers.schedulers.ddim import DDIMScheduler, DDIMSchedulerOutput
from ppdiffusers.schedulers.scheduler import Scheduler

__all__ = ["DDIMScheduler", "DDIMSchedulerOutput", "Scheduler"]
