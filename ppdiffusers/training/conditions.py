"""What each task tells its U-Net: as numbers of an item, as tensors of a batch, and as arguments of its pipeline."""

from __future__ import annotations

from typing import Any, Callable, ClassVar, Dict, Optional, Sequence, Tuple, Type

import numpy as np
import paddle
import paddle.nn.functional as F

from ppdiffusers.config import ConfigError
from ppdiffusers.layout import FULL_CROP, TOKENS_PER_CROP, TOKENS_PER_OBJECT, layout_tokens
from ppdiffusers.pictures import ImageError
from ppdiffusers.tokenizer import tokenise
from ppdiffusers.training.batches import Item
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.degradations import degrade
from ppdiffusers.training.pictures import Sample

Batch = Dict[str, paddle.Tensor]
# What is beside the latents, `[B, C, h, w]`, and what is attended to, `[B, S, D]`.
Told = Tuple[Optional[paddle.Tensor], Optional[paddle.Tensor]]


class Condition:
    """Of a task that has none; the others extend it.

    Args:
        components: of the pipeline.
        factor: pixels a latent.
        num_classes: that the annotations have; 0 where there are none.
    """

    pipeline: ClassVar[str] = "LDMPipeline"
    needs: ClassVar[Tuple[str, ...]] = ()
    encoder: ClassVar[Optional[str]] = None  # the component that reads the condition

    def __init__(self, config: Configuration, components: Dict[str, Any], factor: int, num_classes: int):
        self.config, self.factor = config, factor
        self.encode = components.get(self.encoder or "")
        self.components = components

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        """Arrays for `told`; the draws for dropping are taken from `random` in any case."""
        return {}

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        """
        Args:
            encode: pixels to latents as the U-Net sees them, without noise.
        """
        return None, None

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        """Of the pipeline, for pictures that show what `samples` do."""
        return {"batch_size": len(samples)}

    def _dropped(self, random: np.random.Generator) -> bool:
        return bool(random.random() < self.config.data.drop)


class LowResolution(Condition):
    pipeline = "LDMSuperResolutionPipeline"

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        small = degrade(sample.pixels, self.factor, self.config.data.degradation, random)
        return {"small": np.ascontiguousarray(small.transpose(2, 0, 1))}

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        return batch["small"], None

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        kind = self.config.data.degradation
        small = [degrade(s.pixels, self.factor, kind, np.random.default_rng([0, i])) for i, s in enumerate(samples)]
        return {"image": [each / 2 + np.float32(0.5) for each in small]}


class Hole(Condition):
    pipeline = "LDMInpaintPipeline"

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        return {"mask": self._mask(sample, random)[None].astype(np.float32)}

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        hole = batch["mask"]  # [B, 1, H, W], 1 where to paint
        masked = encode(batch["pixels"] * (1 - hole) - hole)  # black is -1
        coarse = hole[:, :, :: self.factor, :: self.factor] * 2 - 1  # as `LDMInpaintPipeline`
        return paddle.concat([masked, coarse], axis=1), None

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        masks = [self._mask(sample, np.random.default_rng([0, i])) for i, sample in enumerate(samples)]
        return {"image": [sample.pixels / 2 + np.float32(0.5) for sample in samples], "mask_image": masks}

    def _mask(self, sample: Sample, random: np.random.Generator) -> np.ndarray:
        drawn = random_mask(sample.pixels.shape[0], sample.pixels.shape[1], random)
        return drawn if sample.mask is None else sample.mask


def random_mask(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`[height, width]` bool: one to four boxes or thick strokes, or for a tenth the half on one side."""
    mask = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width]
    if random.random() < 0.1:
        side, along = random.integers(2), random.integers(2)
        mask |= ((y if along else x) * 2 < (height if along else width)) == bool(side)
        return mask
    for _ in range(random.integers(1, 5)):
        if random.random() < 0.5:
            rows, columns = (max(1, round(side * random.uniform(0.1, 0.5))) for side in (height, width))
            top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
            mask[top : top + rows, left : left + columns] = True
            continue
        points = random.uniform(0, 1, (random.integers(2, 6), 2)) * [height, width]
        thickness = random.uniform(0.02, 0.08) * min(height, width) + 0.5
        for start, end in zip(points, points[1:]):
            direction = end - start
            along = ((y - start[0]) * direction[0] + (x - start[1]) * direction[1]) / max(direction @ direction, 1e-6)
            nearest = np.clip(along, 0, 1)
            gap = np.hypot(y - start[0] - nearest * direction[0], x - start[1] - nearest * direction[1])
            mask |= gap <= thickness
    return mask


class LabelMap(Condition):
    pipeline = "LDMSemanticSynthesisPipeline"
    needs = ("labels",)
    encoder = "rescaler"

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        assert sample.labels is not None
        count = self.components["rescaler"].config.in_channels
        if sample.labels.max() >= count:
            raise ImageError(f"a map has the label {sample.labels.max()}; the rescaler's in_channels are {count}")
        return {"labels": sample.labels}

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        planes = F.one_hot(batch["labels"], self.components["rescaler"].config.in_channels)
        return self.components["rescaler"](planes.transpose([0, 3, 1, 2])), None

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        return {"segmentation": [sample.labels for sample in samples]}


class _Attended(Condition):
    """Numbers that an encoder reads."""

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        return {"told": np.asarray(self._numbers(sample, self._dropped(random)), np.int64)}

    def _numbers(self, sample: Sample, dropped: bool) -> Any:
        raise NotImplementedError

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        return None, self.components[str(self.encoder)](batch["told"])[0]

    def _sized(self, samples: Sequence[Sample], **told: Any) -> Dict[str, Any]:
        height, width = samples[0].pixels.shape[:2]
        return {**told, "height": height, "width": width, "guidance_scale": self.config.diffusion.guidance_scale}


class Prompt(_Attended):
    pipeline = "LDMTextToImagePipeline"
    needs = ("captions",)
    encoder = "bert"

    def _numbers(self, sample: Sample, dropped: bool) -> Any:
        length = self.components["bert"].config.max_position_embeddings
        return tokenise(self.components["tokenizer"], ["" if dropped else sample.caption], length)[0]

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        return self._sized(samples, prompt=[sample.caption for sample in samples])


class ClassNumber(_Attended):
    pipeline = "LDMClassConditionalPipeline"
    needs = ("classes",)
    encoder = "class_embedder"

    def __init__(self, config: Configuration, components: Dict[str, Any], factor: int, num_classes: int):
        super().__init__(config, components, factor, num_classes)
        embedder = components["class_embedder"].config
        self._empty = embedder.unconditional_class
        rows = embedder.num_classes - (self._empty is not None)
        if num_classes > rows:
            raise ConfigError(f"{num_classes} class folders, but models.class_embedder has room for {rows}")

    def _numbers(self, sample: Sample, dropped: bool) -> Any:
        return self._empty if dropped and self._empty is not None else sample.class_number

    def told(self, batch: Batch, encode: Callable[[paddle.Tensor], paddle.Tensor]) -> Told:
        return None, self.components["class_embedder"](batch["told"])

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        return self._sized(samples, class_labels=[sample.class_number for sample in samples])


class Boxes(_Attended):
    pipeline = "LDMLayoutToImagePipeline"
    needs = ("boxes",)
    encoder = "layout_encoder"

    def __init__(self, config: Configuration, components: Dict[str, Any], factor: int, num_classes: int):
        super().__init__(config, components, factor, num_classes)
        reader = components["layout_encoder"].config
        self._vocabulary, self._classes = reader.vocab_size, num_classes
        self._objects = (reader.max_position_embeddings - TOKENS_PER_CROP) // TOKENS_PER_OBJECT
        if num_classes >= self._vocabulary:
            raise ConfigError(f"{num_classes} classes of boxes, but layout_encoder.vocab_size is {self._vocabulary}")

    def _layout(self, sample: Sample) -> Any:
        """The largest objects in sight, as many as the model reads."""
        left, top, right, bottom = sample.crop
        modified = self._vocabulary - 1 > 2 * self._classes  # whether there are tokens for groups
        shown = [
            box
            for box in sample.boxes
            if max(box.box[0], left) < min(box.box[2], right) and max(box.box[1], top) < min(box.box[3], bottom)
            if modified or not box.group
        ]
        return shown[: self._objects]

    def _numbers(self, sample: Sample, dropped: bool) -> Any:
        layout = [] if dropped else self._layout(sample)
        return layout_tokens(layout, sample.crop, self._vocabulary, self._objects, self._classes)

    def arguments(self, samples: Sequence[Sample]) -> Dict[str, Any]:
        whole = [[box for box in self._layout(sample)] or sample.boxes[: self._objects] for sample in samples]
        return self._sized(samples, boxes=whole, crop=FULL_CROP)


CONDITIONS: Dict[str, Type[Condition]] = {
    "unconditional": Condition,
    "super-resolution": LowResolution,
    "text-to-image": Prompt,
    "class-conditional": ClassNumber,
    "inpainting": Hole,
    "semantic-synthesis": LabelMap,
    "layout-to-image": Boxes,
}
