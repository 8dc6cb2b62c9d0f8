"""Checkpoints of CompVis/latent-diffusion: one state dict for all parts, and a yaml that says what they are.

Source: ldm/models/diffusion/ddpm.py there. How the latents are conditioned follows from `concat_mode`,
`conditioning_key` and the conditioning stage; together they make the task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Type

import numpy as np

from ppdiffusers import pipelines
from ppdiffusers.checkpoints import Checkpoint, Pending, save_torch
from ppdiffusers.conversion import bert_embedder, class_embedder, spatial_rescaler, unet_model, vqgan, yaml_files
from ppdiffusers.conversion.bundle import Bundle, bundled, without_memory
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.conversion.params import number
from ppdiffusers.conversion.tensors import Taking, cast, give
from ppdiffusers.models import AutoencoderKL, Model, UNet2DConditionModel
from ppdiffusers.schedulers import DDIMScheduler
from ppdiffusers.tokenizer import BertTokenizer

CHECKPOINT, YAML, TOKENIZER = "model.ckpt", "config.yaml", "tokenizer"

FIRST_STAGE, UNCONDITIONAL, IDENTITY = "__is_first_stage__", "__is_unconditional__", "torch.nn.Identity"


class Task(NamedTuple):
    conditioning: Optional[str]  # the original's conditioning_key
    stage: str  # class of the conditioning stage, or what stands for it
    reads: str  # the original's cond_stage_key
    component: Optional[str] = None  # our name of the conditioning stage, where it has weights


TASKS = {
    "LDMPipeline": Task(None, UNCONDITIONAL, "class_label"),
    "LDMInpaintPipeline": Task("concat", FIRST_STAGE, "masked_image"),
    "LDMSuperResolutionPipeline": Task("concat", IDENTITY, "LR_image"),
    "LDMSemanticSynthesisPipeline": Task("concat", spatial_rescaler.NAME, "segmentation", "rescaler"),
    "LDMTextToImagePipeline": Task("crossattn", bert_embedder.NAME, "caption", "bert"),
    "LDMLayoutToImagePipeline": Task("crossattn", bert_embedder.NAME, "coordinates_bbox", "layout_encoder"),
    "LDMClassConditionalPipeline": Task("crossattn", class_embedder.NAME, "class_label", "class_embedder"),
}
_ENCODERS = "ldm.modules.encoders.modules"
STAGES: Dict[str, Any] = {module.NAME: module for module in (bert_embedder, class_embedder, spatial_rescaler)}

_UNET, _FIRST, _CONDITION, _AVERAGE = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
_AVERAGE_NOTES = (f"{_AVERAGE}decay", f"{_AVERAGE}num_updates")
_LOSS = f"{_FIRST}loss."  # of training the first stage
_BUFFERS = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    *("lvlb_weights", "logvar", "cond_ids", "scale_factor"),
}

_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}  # the original calls them by other names
_PREDICTIONS = {"eps": "epsilon", "x0": "sample"}


def read(checkpoint: Checkpoint, config: Mapping[str, Any], ema: bool = True, tokenizer: Any = None) -> Bundle:
    """The pipeline that a checkpoint is, its tensors not read yet.

    Args:
        checkpoint: open until the tensors have been written.
        config: what the yaml says under "model".
        ema: take the averaged weights of the U-Net, where there are some and the yaml does not say `use_ema: false`.
        tokenizer: folder with the vocabulary of a text model, which the checkpoint does not hold.

    Raises:
        ConversionError: the yaml describes nothing that is here, or something else than the checkpoint holds.
        CheckpointError: what should be a tensor is none.
    """
    params = _params(config, "LatentDiffusion")
    name, components = build(config, _stored_scale_factor(params, checkpoint))
    task = TASKS[name]
    _check_betas(components["scheduler"], checkpoint)

    averaged = ema and params.get("use_ema", True) and any(map(_is_averaged, checkpoint.keys()))
    taking = Taking(checkpoint)
    tensors = {
        "unet": taking.take(unet_model.rows(components["unet"]), averaged_name if averaged else _UNET.__add__),
        "vqvae": taking.take(vqgan.rows(components["vqvae"]), _FIRST.__add__),
    }
    ignored = [_LOSS, *([_UNET, *_AVERAGE_NOTES] if averaged else [_AVERAGE])]
    if task.component is not None:
        stage = STAGES[task.stage]
        tensors[task.component] = taking.take(stage.rows(components[task.component]), _CONDITION.__add__)
        ignored += [_CONDITION + unused for unused in stage.UNUSED]
    elif task.stage == FIRST_STAGE:
        ignored.append(_CONDITION)  # the first stage once more
    taking.check(
        lambda key: key in _BUFFERS or key.startswith(tuple(ignored)),
        "its yaml; is that the one that was published with it?",
    )
    pipeline_class = getattr(pipelines, name)
    if "tokenizer" in pipeline_class._component_types:
        if tokenizer is None:
            raise ConversionError(
                "a text model needs its vocabulary, that of bert-base-uncased, which the checkpoint does not hold: "
                "give the folder of its vocab.txt with --tokenizer"
            )
        components["tokenizer"] = BertTokenizer(tokenizer)
    return bundled(pipeline_class, components, tensors)


def write(bundle: Bundle, folder: Path, dtype: Optional[str] = None) -> None:
    """Write `model.ckpt` and `config.yaml`, and the tokenizer of a text model beside them.

    The yaml tells how the model was trained; the original has no place for what a scheduler samples with. Its buffers
    are left out: it makes them from the yaml.

    Raises:
        ConversionError: the original has no such model.
    """
    components = bundle.pipeline.components
    unet, vqvae, name = components["unet"], components["vqvae"], type(bundle.pipeline).__name__
    if name not in TASKS:
        raise ConversionError(f"the original has no counterpart of a {name}; it has one of {', '.join(TASKS)}")
    task = TASKS[name]
    first_name, first_params = vqgan.to_params(vqvae)
    unet_params = unet_model.to_params(unet)
    stage: Any = {"target": IDENTITY} if task.stage == IDENTITY else task.stage
    if task.component is not None:
        stage_params = STAGES[task.stage].to_params(components[task.component])
        if name == "LDMLayoutToImagePipeline":
            stage_params["use_tokenizer"] = False
        stage = {"target": f"{_ENCODERS}.{task.stage}", "params": stage_params}
    params = {
        **_scheduler_params(components["scheduler"]),
        "first_stage_key": "image",
        "cond_stage_key": task.reads,
        "image_size": unet.config.sample_size,
        "channels": unet.config.out_channels,
        "cond_stage_trainable": task.component is not None,
        "concat_mode": task.conditioning == "concat",
        **({"conditioning_key": task.conditioning} if task.conditioning == "crossattn" else {}),
        **({"scale_factor": vqvae.config.scaling_factor} if isinstance(vqvae, AutoencoderKL) else {}),
        "use_ema": False,
        "unet_config": {"target": f"ldm.modules.diffusionmodules.openaimodel.{unet_model.NAME}", "params": unet_params},
        "first_stage_config": {"target": f"ldm.models.autoencoder.{first_name}", "params": first_params},
        "cond_stage_config": stage,
    }
    rows = {_UNET: ("unet", unet_model.rows(unet)), _FIRST: ("vqvae", vqgan.rows(vqvae))}
    if task.component is not None:
        rows[_CONDITION] = (task.component, STAGES[task.stage].rows(components[task.component]))
    tensors: Dict[str, Pending] = {}
    for prefix, (component, table) in rows.items():
        for theirs, tensor in give(table, cast(bundle.tensors[component], dtype)).items():
            tensors[prefix + theirs] = tensor
    yaml_files.write(
        folder / YAML, {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    )
    if "tokenizer" in components:
        components["tokenizer"].save_pretrained(folder / TOKENIZER)
    save_torch(folder / CHECKPOINT, tensors)


def build(config: Mapping[str, Any], scale_factor: Optional[float] = None) -> Tuple[str, Dict[str, Any]]:
    """The name of the pipeline, and its models and scheduler without memory, of what a yaml says under "model".

    Args:
        scale_factor: what the checkpoint says, where the yaml leaves it to it.

    Raises:
        ConversionError: there is no such pipeline, or no such model, here.
    """
    params = _params(config, "LatentDiffusion")
    name = task_of(params)
    task = TASKS[name]
    unet = _model(*unet_model.to_config(_params(params.get("unet_config"), unet_model.NAME)))
    if isinstance(unet, UNet2DConditionModel) is not (task.conditioning == "crossattn"):
        raise ConversionError(
            f"the yaml conditions by {task.conditioning!r}, but its unet_config has use_spatial_transformer: "
            f"{isinstance(unet, UNet2DConditionModel)}"
        )
    first_stage = params.get("first_stage_config")
    scale_factor = number("scale_factor", params.get("scale_factor", 1.0)) if scale_factor is None else scale_factor
    vqvae = _model(*vqgan.to_config(_class_name(first_stage), _params(first_stage), scale_factor))
    components = {"vqvae": vqvae, "unet": unet, "scheduler": _scheduler(params)}
    if task.component is not None:
        stage = STAGES[task.stage]
        components[task.component] = _model(*stage.to_config(_params(params["cond_stage_config"])))
    return name, components


def task_of(params: Mapping[str, Any]) -> str:
    """The name of the pipeline that does what these params of a `LatentDiffusion` say.

    Raises:
        ConversionError: none does.
    """
    stage = params.get("cond_stage_config")
    name = stage if isinstance(stage, str) else _class_name(stage)
    conditioning = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    if name == UNCONDITIONAL:
        conditioning = None
    fitting = [pipeline for pipeline, task in TASKS.items() if (task.conditioning, task.stage) == (conditioning, name)]
    if not fitting:
        raise ConversionError(
            f"the yaml conditions by {conditioning!r} on {name!r} (conditioning_key, cond_stage_config), for which "
            "there is no pipeline here"
        )
    if name == bert_embedder.NAME:
        reads_text = bert_embedder.reads_text(_params(stage))
        return "LDMTextToImagePipeline" if reads_text else "LDMLayoutToImagePipeline"
    return fitting[0]


def averaged_name(name: str) -> str:
    """Where the running average of a weight of the `UNetModel` is kept: the name of a buffer has no dots."""
    return _AVERAGE + f"diffusion_model.{name}".replace(".", "")


def _is_averaged(key: str) -> bool:
    return key.startswith(f"{_AVERAGE}diffusion_model")


def _model(kind: Type[Model], config: Mapping[str, Any]) -> Any:
    try:
        return without_memory(kind, config)
    except Exception as error:  # whatever Paddle says of impossible sizes: the yaml is at fault, not the caller
        reason = " ".join(str(error).split())[-200:]
        raise ConversionError(f"no {kind.__name__} can be built as the yaml says: {reason}") from error


def _class_name(config: Any) -> str:
    """The class in a yaml's {"target": module.class, "params": {...}}; torch's as it stands."""
    target = config.get("target") if isinstance(config, Mapping) else None
    if not isinstance(target, str):
        raise ConversionError(f"the yaml names no target in {config!r}"[:200])
    return target if target == IDENTITY else target.rpartition(".")[2]


def _params(config: Any, name: Optional[str] = None) -> Mapping[str, Any]:
    """Its params, where its class is `name`; any is taken for None."""
    found = _class_name(config)
    if name not in (None, found):
        raise ConversionError(f"the yaml names a {found!r} where only a {name} has a counterpart here")
    params = config.get("params", {})
    if not isinstance(params, Mapping):
        raise ConversionError(f"the yaml's params of {found} are no mapping")
    return params


def _stored_scale_factor(params: Mapping[str, Any], checkpoint: Checkpoint) -> Optional[float]:
    """That of a model whose latents were scaled by what their deviation was when training began."""
    if not params.get("scale_by_std", False):
        return None
    if "scale_factor" not in checkpoint.keys():
        raise ConversionError(f"{checkpoint.path} has no scale_factor, which its yaml promises with scale_by_std")
    value = checkpoint.read("scale_factor")
    if value.size != 1:
        raise ConversionError(f"the scale_factor of {checkpoint.path} is of shape {list(value.shape)}, not one number")
    return float(value.reshape(()))


def _scheduler(params: Mapping[str, Any]) -> DDIMScheduler:
    """The sampler of the original: DDIM without clipping, which steps to the first training step's noise level."""
    schedule, prediction = params.get("beta_schedule", "linear"), params.get("parameterization", "eps")
    if schedule not in _SCHEDULES or prediction not in _PREDICTIONS:
        raise ConversionError(
            f"the yaml's beta_schedule {schedule!r} with parameterization {prediction!r} has no counterpart here; "
            f"{', '.join(_SCHEDULES)} and {', '.join(_PREDICTIONS)} have"
        )
    steps = params.get("timesteps", 1000)
    if type(steps) is not int or steps < 1:
        raise ConversionError(f"timesteps is {steps!r} in the yaml; it must be a positive whole number")
    return DDIMScheduler(
        num_train_timesteps=steps,
        beta_start=number("linear_start", params.get("linear_start", 1e-4)),
        beta_end=number("linear_end", params.get("linear_end", 2e-2)),
        beta_schedule=_SCHEDULES[schedule],
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=_PREDICTIONS[prediction],
    )


def _scheduler_params(scheduler: Any) -> Dict[str, Any]:
    config = scheduler.config
    schedules = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    schedule, prediction = config.beta_schedule, config.get("prediction_type", "epsilon")
    trained = config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr", False)
    if schedule not in schedules or prediction not in predictions or trained:
        raise ConversionError(
            f"the original has no counterpart of the noise schedule in {dict(config)}; it knows beta_schedule "
            f"{', '.join(schedules)} and prediction_type {', '.join(predictions)}"
        )
    return {
        "linear_start": config.beta_start,
        "linear_end": config.beta_end,
        "timesteps": config.num_train_timesteps,
        "beta_schedule": schedules[schedule],
        "parameterization": predictions[prediction],
    }


def _check_betas(scheduler: DDIMScheduler, checkpoint: Checkpoint) -> None:
    """A checkpoint carries its noise schedule: a yaml that says another one is not its own."""
    if "betas" not in checkpoint.keys():
        return
    betas = checkpoint.read("betas")
    if list(betas.shape) != list(scheduler.betas.shape) or not np.allclose(betas, scheduler.betas, rtol=1e-3):
        raise ConversionError(
            f"{checkpoint.path} was trained on {betas.size} noise levels from beta {betas.flat[0]:.6g} to "
            f"{betas.flat[-1]:.6g}; its yaml says {len(scheduler.betas)}, from {scheduler.betas[0]:.6g} to "
            f"{scheduler.betas[-1]:.6g}: give the yaml that was published with it"
        )
