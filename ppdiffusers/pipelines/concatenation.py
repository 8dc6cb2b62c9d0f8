"""What the pipelines share whose U-Net sees its condition beside the latents."""

from __future__ import annotations

import copy
import functools
from typing import Any, Callable, Iterator, List, Optional

import numpy as np
import paddle

from ppdiffusers.models import UNet2DModel
from ppdiffusers.pipelines.noise_to_image import NoiseToImagePipeline
from ppdiffusers.pipelines.pipeline import StepCallback
from ppdiffusers.pipelines.results import DenoisingProgress, ImagePipelineOutput, check_latents
from ppdiffusers.random import as_generators, randn_tensor


class ConcatenationPipeline(NoiseToImagePipeline):
    """Base of the pipelines whose `unet` sees a condition as further channels after the latents'
    (arXiv 2112.10752, section 3.3).

    What a call is given becomes a list of inputs, each with a `size` (height, width); those of one size run
    together.
    """

    unet: UNet2DModel

    def _condition(self, batch: List[Any]) -> paddle.Tensor:
        """`[R, C, h, w]`, padded to what the unet takes; one row for each of `_rows`."""
        raise NotImplementedError

    def _rows(self, batch: List[Any]) -> List[int]:
        """The input whose noise each row starts from: every input in turn, then those that take more rows."""
        return list(range(len(batch)))

    @property
    def _unet_multiple(self) -> int:
        """What the latents' height and width must divide by."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def _generate_batches(
        self,
        inputs: List[Any],
        assemble: Callable[[List[Any], np.ndarray], List[np.ndarray]],
        finish: Callable[[List[np.ndarray]], Any],
        num_inference_steps: int,
        eta: float,
        generator: Any,
        output_type: str,
        return_dict: bool,
        latents: Optional[Any],
        callback: Optional[StepCallback],
    ) -> Iterator[DenoisingProgress]:
        """The `stream` of one picture an input.

        Args:
            assemble: pictures `[H, W, C]` in [0, 1], one an input of a batch, of what was decoded, `[R, H', W', 3]`.
            finish: what the caller gets, of all pictures.
        """
        same_size = len({item.size for item in inputs}) == 1
        if not same_size and (latents is not None or output_type == "latent"):
            raise ValueError("latents go with pictures of one size; these differ: take them one by one")
        # Norms see a whole feature map, so pictures of different sizes cannot be padded to one batch.
        batches = [inputs] if same_size else [[item] for item in inputs]
        generators = as_generators(generator, len(inputs))
        streams = [generators[i : i + 1] if isinstance(generators, list) else generators for i in range(len(inputs))]
        if same_size:
            streams = [generators]

        self.scheduler.set_timesteps(num_inference_steps)
        finished, total = 0, len(batches) * len(self.scheduler.timesteps)  # some schedulers take extra steps
        pictures: List[np.ndarray] = []
        with self._progress_bar(total) as bar:
            for batch, stream in zip(batches, streams):
                with paddle.no_grad():
                    condition = self._condition(batch).astype(self.unet.dtype)
                shape = [len(batch), self._latent_channels, *condition.shape[2:]]
                noise = randn_tensor(shape, stream) if latents is None else check_latents(latents, shape)
                rows = self._rows(batch)
                if len(rows) > len(batch):
                    noise = noise[rows]
                    if isinstance(stream, list):
                        stream = stream + [copy.deepcopy(stream[i]) for i in rows[len(batch) :]]
                predict = functools.partial(self._predict, condition)
                for timestep, current in self._denoise(noise, predict, num_inference_steps, eta, stream, callback):
                    finished += 1
                    bar.update()
                    if finished < total:
                        yield DenoisingProgress(finished, total, timestep, current)
                if output_type != "latent":
                    pictures += assemble(batch, self.decode_latents(current))
            if output_type == "latent":
                result = current[: len(inputs)]
                output = ImagePipelineOutput(images=result) if return_dict else (result,)
            else:
                output = finish(pictures)
            yield DenoisingProgress(finished, total, timestep, current, output)

    def _predict(
        self, condition: paddle.Tensor, latents: paddle.Tensor, timestep: float, **options: Any
    ) -> paddle.Tensor:
        return self.unet(paddle.concat([latents.astype(self.unet.dtype), condition], axis=1), timestep, **options)[0]
