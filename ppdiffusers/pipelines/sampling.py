"""The denoising loop of every pipeline, and how a U-Net is given its condition."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, Callable, Dict, Generator, List, Optional, Sequence, Tuple, TypeVar

import paddle

from ppdiffusers.pipelines.results import DenoisingProgress, memory_for
from ppdiffusers.pipelines.tiling import Blend, Window, Windows
from ppdiffusers.random import as_generators
from ppdiffusers.threads import use_threads

if TYPE_CHECKING:
    from ppdiffusers.pipelines.pipeline import DiffusionPipeline

# callback(pipeline, step from 0, timestep, {"latents": ...}); what it returns may replace the latents.
StepCallback = Callable[["DiffusionPipeline", int, float, Dict[str, paddle.Tensor]], Optional[Dict[str, Any]]]
# The model's output for a U-Net, latents that the scheduler has scaled, a timestep, and the window that they are of.
Predict = Callable[[Any, paddle.Tensor, float, Optional[Window]], paddle.Tensor]
Item = TypeVar("Item")


class Run:
    """One call of a pipeline. What it writes to is its own: the scheduler's state, the progress, the deep features.

    Args:
        batches: how often the run will `denoise`.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        num_inference_steps: int,
        eta: float = 0.0,
        callback: Optional[StepCallback] = None,
        batches: int = 1,
    ):
        self.pipeline, self.callback = pipeline, callback
        self.scheduler = pipeline.scheduler.copy()
        self.scheduler.set_timesteps(num_inference_steps)
        self._step_options = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in self._step_options:
            warnings.warn(f"{type(self.scheduler).__name__} has no eta: {eta} is ignored", stacklevel=4)
        self.eta = eta
        self.finished, self.total = 0, batches * len(self.scheduler.timesteps)  # some schedulers take extra steps
        self._bar = pipeline._progress_bar(self.total)
        self._timestep = 0.0

    def denoise(
        self, noise: paddle.Tensor, predict: Predict, generator: Any = None
    ) -> Generator[DenoisingProgress, None, paddle.Tensor]:
        """The reverse process from unit noise `[B, C, h, w]` to latents; yields after every step but the run's last.

        Conditions are the business of `predict`: no scheduler ever scales them.
        """
        scheduler = self.scheduler.copy()  # each batch begins anew
        timesteps = scheduler.timesteps.tolist()
        use_threads()
        predicted = Prediction(self.pipeline, predict, noise.shape, len(timesteps))
        given = {"eta": self.eta, "generator": generator}
        options = {name: value for name, value in given.items() if name in self._step_options}

        latents = noise * scheduler.init_noise_sigma
        try:
            for index, timestep in enumerate(timesteps):
                with paddle.no_grad(), memory_for(noise, self.pipeline.vae_scale_factor):  # type: ignore[attr-defined]
                    model_output = predicted(scheduler.scale_model_input(latents, timestep), timestep)
                    latents = scheduler.step(model_output.astype("float32"), timestep, latents, **options).prev_sample
                if self.callback is not None:
                    changed = self.callback(self.pipeline, index, timestep, {"latents": latents})
                    latents = (changed or {}).get("latents", latents)
                self.finished += 1
                self._timestep = timestep
                self._bar.update()
                if self.finished < self.total:
                    yield DenoisingProgress(self.finished, self.total, timestep, latents)
        except BaseException:  # also when the caller leaves the loop
            self._bar.close()
            raise
        return latents

    def done(self, latents: paddle.Tensor, output: Any) -> DenoisingProgress:
        """The last progress, which carries the result."""
        self._bar.close()
        return DenoisingProgress(self.finished, self.total, self._timestep, latents, output)


class Prediction:
    """What the U-Net predicts, step after step of one loop: of all the latents at once, or by windows where they are
    large or memory is short.

    Args:
        shape: of the latents, `[B, C, h, w]`.
    """

    def __init__(self, pipeline: Any, predict: Predict, shape: Sequence[int], steps: int):
        self._pipeline, self._predict, self._shape, self._steps = pipeline, predict, shape, steps
        self._cut(pipeline._windows("unet", shape))

    def _cut(self, windows: Optional[Windows]) -> None:
        self._blend = None if windows is None else Blend(windows)
        self._unets = self._denoisers()
        self._done = 0

    def _denoisers(self) -> List[Any]:
        """One, or one a window, since each keeps deep features of its own."""
        if self._blend is None:
            return [self._pipeline._denoiser(self._shape, self._steps)]
        count = len(self._blend.windows)
        shape = [*self._shape[:2], *self._blend.windows.shape]
        return [self._pipeline._denoiser(shape, self._steps * count) for _ in range(count)]

    def __call__(self, latents: paddle.Tensor, timestep: float) -> paddle.Tensor:
        while True:
            try:
                return self._now(latents, timestep)
            except MemoryError:
                windows = None if self._blend is None else self._blend.windows
                smaller = self._pipeline._smaller_windows("unet", self._shape, windows)
                if smaller is None:
                    raise
            self._cut(smaller)

    def _now(self, latents: paddle.Tensor, timestep: float) -> paddle.Tensor:
        if self._blend is None:
            return self._predict(self._unets[0], latents, timestep, None)

        def compute(window: Window, number: int) -> paddle.Tensor:
            return self._predict(unets[number], window.of(latents), timestep, window)

        kind = self._done % self._pipeline._cache_interval  # of deep features: such steps run other norms
        if self._done == 0:
            unets = self._denoisers()
            self._blend.look(compute, kind)
        unets = self._unets
        self._done += 1
        return self._blend.whole(compute, kind)


def unconditioned() -> Predict:
    return lambda unet, latents, timestep, window: unet(latents.astype(unet.dtype), timestep)[0]


def beside(condition: paddle.Tensor) -> Predict:
    """The U-Net sees `condition`, `[B, C', h, w]`, as further channels (arXiv 2112.10752, section 3.3)."""

    def predict(unet: Any, latents: paddle.Tensor, timestep: float, window: Optional[Window]) -> paddle.Tensor:
        seen = condition if window is None else window.of(condition)
        return unet(paddle.concat([latents.astype(unet.dtype), seen.astype(unet.dtype)], axis=1), timestep)[0]

    return predict


def attending(condition: paddle.Tensor, guidance_scale: Optional[float] = None) -> Predict:
    """The U-Net attends to `condition` (arXiv 2112.10752, section 3.3).

    Args:
        condition: `[B, T, D]`; with guidance `[2 * B, T, D]`, the negative half first.
        guidance_scale: None does without classifier-free guidance.
    """

    def predict(unet: Any, latents: paddle.Tensor, timestep: float, window: Optional[Window]) -> paddle.Tensor:
        latents, context = latents.astype(unet.dtype), condition.astype(unet.dtype)
        if guidance_scale is None:
            return unet(latents, timestep, context)[0]
        both = unet(paddle.concat([latents, latents]), timestep, context)[0].astype("float32")
        negative, positive = both.chunk(2)
        return negative + guidance_scale * (positive - negative)  # arXiv 2207.12598, equation 6; the scale is 1 + w

    return predict


def in_batches(items: Sequence[Item], generator: Any, one_size: bool) -> List[Tuple[List[Item], Any]]:
    """What has a `size` in batches, all together or each alone where sizes differ, with their generators.

    Norms see a whole feature map, so pictures of different sizes cannot be padded to one batch.

    Args:
        one_size: whether they have to go together.

    Raises:
        ValueError: they have to, and sizes differ; or as `as_generators`.
    """
    generators = as_generators(generator, len(items))
    if len({item.size for item in items}) == 1:  # type: ignore[attr-defined]
        return [(list(items), generators)]
    if one_size:
        raise ValueError("latents go with pictures of one size; these differ: take them one by one")
    alone = [generators[i : i + 1] if isinstance(generators, list) else generators for i in range(len(items))]
    return [([item], each) for item, each in zip(items, alone)]
