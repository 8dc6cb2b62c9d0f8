"""Arguments of code for ppdiffusers 0.29 and diffusers that say here what another says, or nothing at all."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Optional, Set

from ppdiffusers.config import ConfigError

logger = logging.getLogger("ppdiffusers")
_told: Set[str] = set()

# Of `from_pretrained`: how other libraries load and fetch; here each has one way, and every file is checked.
LOADING = (
    "low_cpu_mem_usage",
    "resume_download",
    "proxies",
    "mirror",
    "requires_safety_checker",
    "use_auth_token",
    "token",
)
# ... and what is taken only if it asks for nothing.
NOTHING = {
    "device_map": (None,),
    "force_download": (None, False),
    "revision": (None, "main"),
    "safety_checker": (None,),
    "feature_extractor": (None,),
    "variant": (None,),
    "output_loading_info": (None, False),
}
REMEDIES = {
    "device_map": "call .to(device) on the result",
    "force_download": "`model-zoo download NAME --force` fetches it again",
    "revision": "`model-zoo download NAME --revision` takes one, where the zoo has it",
    "variant": "paddle_dtype=... makes any type of the files that are there",
    "output_loading_info": "loading is strict: what is missing, unexpected or mis-shaped is an error that names it",
}


def tell_once(message: str, level: int = logging.DEBUG) -> None:
    """Log what a call asked for in vain, the first time."""
    if message not in _told:
        _told.add(message)
        logger.log(level, message)


def take_loading_options(options: Dict[str, Any]) -> Optional[bool]:
    """Takes out of `options` what means nothing here; returns `use_safetensors`.

    Raises:
        ConfigError: one that asks for what is not there.
    """
    for name in LOADING:
        if name in options:
            value = options.pop(name)
            tell_once(f"{name}={value!r} changes nothing here")
    for name, empty in NOTHING.items():
        if name in options:
            value = options.pop(name)
            if not any(value is one or value == one for one in empty):
                hint = REMEDIES.get(name, "there is none here")
                raise ConfigError(f"{name}={value!r} is not supported; {hint}")
    return options.pop("use_safetensors", None)


def translate_call(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Keyword arguments of a pipeline's call, with those of other releases told in this one's.

    - `callback(step, timestep, latents)` every `callback_steps` steps becomes a `callback_on_step_end`;
    - `callback_on_step_end_tensor_inputs` may name "latents", which is what the callback gets;
    - `cross_attention_kwargs`, `clip_skip` and such may be None;
    - `timesteps` or `sigmas` stand in the place of `num_inference_steps`.

    Raises:
        ValueError: something that the call cannot do.
    """
    arguments = dict(arguments)
    inputs = arguments.pop("callback_on_step_end_tensor_inputs", None)
    if inputs is not None and set(inputs) - {"latents"}:
        raise ValueError(f"callback_on_step_end_tensor_inputs {list(inputs)!r}: the callback gets 'latents' only")
    for name in ("cross_attention_kwargs", "clip_skip", "ip_adapter_image"):
        if name in arguments and arguments[name] is None:
            del arguments[name]
    callback, every = arguments.pop("callback", None), arguments.pop("callback_steps", None)
    if callback is not None:
        if arguments.get("callback_on_step_end") is not None:
            raise ValueError("callback and callback_on_step_end were both given; give one of them")
        arguments["callback_on_step_end"] = _step_callback(callback, 1 if every is None else every)
    for name in ("timesteps", "sigmas"):
        values = arguments.pop(name, None)
        if values is not None:
            if arguments.get("num_inference_steps") is not None:
                raise ValueError(f"num_inference_steps and {name} were both given; give one of them")
            arguments["num_inference_steps"] = {name: values}
    return arguments


def _step_callback(callback: Callable[..., Any], every: int) -> Callable[..., Dict[str, Any]]:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"callback_steps must be a positive int, not {every!r}")

    def on_step_end(pipeline: Any, step: int, timestep: float, tensors: Dict[str, Any]) -> Dict[str, Any]:
        if step % every == 0:
            callback(step, timestep, tensors["latents"])
        return {}

    return on_step_end
