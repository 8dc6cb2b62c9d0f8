"""What a picture is sampled with: scheduler, spacing, steps and reuse of deep features, by the name of a quality.

A model recommends by `_quality` in its `model_index.json`: an object with an entry for every name of `QUALITIES`, each
with the fields of `Quality`. Keys with an underscore mean nothing to other libraries.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

from ppdiffusers.config import ConfigError

if TYPE_CHECKING:
    from ppdiffusers.schedulers.scheduler import Scheduler

QUALITIES = ("fast", "balanced", "best")
INDEX_KEY = "_quality"


@dataclasses.dataclass(frozen=True)
class Quality:
    """One way to sample.

    Attributes:
        scheduler: name of its class.
        steps: `num_inference_steps`.
        config: what the scheduler's config says differently from the model's.
        cache_interval, cache_branch_id: of `enable_deep_cache`; an interval of 1 does without.
    """

    scheduler: str
    steps: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cache_interval: int = 1
    cache_branch_id: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("scheduler", str), ("steps", int), ("config", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        if isinstance(self.steps, bool) or self.steps < 1:
            raise TypeError(f"steps is {self.steps!r}")

    def scheduler_like(self, scheduler: Scheduler) -> Scheduler:
        """The scheduler, for the training of another one.

        Raises:
            ConfigError: there is no such class, or it does not take the config.
        """
        schedulers = importlib.import_module("ppdiffusers.schedulers")
        known = [name for name in schedulers.__all__ if name.endswith("Scheduler") and name != "Scheduler"]
        if self.scheduler not in known:
            names = ", ".join(known)
            raise ConfigError(f"{INDEX_KEY} names {self.scheduler!r}, which is no scheduler; use one of {names}")
        try:
            return getattr(schedulers, self.scheduler).from_config(scheduler.config, **self.config)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{INDEX_KEY}: no {self.scheduler} takes {dict(self.config)}: {error}") from None


def _solver(steps: int) -> Quality:
    return Quality("DPMSolverMultistepScheduler", steps, {"timestep_spacing": "trailing"})


# Of a model that recommends nothing. DPM-Solver++ (2M) is near its limit in 15 to 20 steps (arXiv 2211.01095), and
# trailing timesteps begin where the noise does (arXiv 2305.08891); nothing of it has been measured with that model.
DEFAULT = {"fast": _solver(10), "balanced": _solver(20), "best": _solver(50)}


def read_qualities(entries: Any, file: Path) -> Optional[Dict[str, Quality]]:
    """What the `_quality` of a `model_index.json` says; None for one without.

    Raises:
        ConfigError: it is no such object; names the `file`.
    """
    if entries is None:
        return None
    try:
        return {name: Quality(**entries[name]) for name in QUALITIES}
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"{INDEX_KEY} of {file} is not understood ({error}); it holds {', '.join(QUALITIES)}, each with "
            f"{', '.join(field.name for field in dataclasses.fields(Quality))}"
        ) from None
