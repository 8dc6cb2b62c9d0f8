"""A pipeline that enlarges by repetition: what a command does around the model shows, and in no time."""

import dataclasses
import time
from typing import Any

import numpy as np

from ppdiffusers.images import to_pictures


@dataclasses.dataclass
class Progress:
    step: int
    total: int
    output: Any = None


class Stub:
    """As `LDMSuperResolutionPipeline`, with a trace of its calls. `seconds`: how long a picture takes."""

    upscale_factor = 4

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.calls = []  # pixels, and the first normals that the generator drew

    def stream(self, image, num_inference_steps, eta, generator, output_type):
        assert output_type == "rows" and eta == 0 and min(image.shape[:2]) >= 2
        self.calls.append((image, generator.randn([16])))
        (picture,) = to_pictures(image)
        time.sleep(self.seconds)
        for step in range(1, num_inference_steps):
            yield Progress(step, num_inference_steps)
        colours = (picture.rgb + 1) / 2
        values = colours if picture.alpha is None else np.concatenate([colours, picture.alpha[..., None]], axis=-1)
        rows = (row.repeat(4, axis=0).repeat(4, axis=1) for row in values[:, None])
        yield Progress(num_inference_steps, num_inference_steps, ([rows],))


class Loader:
    """`load` of `upscale.run`, which counts how often it is asked."""

    def __init__(self, seconds=0.0):
        self.pipeline = Stub(seconds)
        self.count = 0

    def __call__(self, args):
        self.count += 1
        return self.pipeline, 2, {"eta": args.eta}


def upscale(load, *arguments):
    """The command with a stub; its exit code."""
    from unittest import mock

    from ppdiffusers.cli import main, upscale

    run = upscale.run
    with mock.patch.object(upscale, "run", lambda args: run(args, load)):
        return main.main(["upscale", *map(str, arguments)])
