"""Golden outputs of the original's models for tests/conversion (run in the reference environment: torch, diffusers).

PYTHONPATH=.:tests/conversion python scripts/make_reference_compvis.py [--checkpoints FOLDER] [--check FOLDER]

With --checkpoints, the small checkpoints are written too, `FOLDER/NAME/model.ckpt` and `config.yaml` (as JSON). With
--check, diffusers opens what `ppdiffusers convert FOLDER/NAME FOLDER/diffusers/NAME --to diffusers` made of them.
"""

import argparse
import hashlib
import json
import sys
import types
from pathlib import Path

import compvis_models
import numpy as np
import torch
from compvis_models import GOLDEN
from reference_compvis_models import LatentDiffusion

import model_zoo

PARTS = {"unet": "model.diffusion_model.", "vqvae": "first_stage_model.", "condition": "cond_stage_model."}
UNUSED = "cond_stage_model.transformer.to_logits."
CONSTANTS = ("betas", "alphas_cumprod", "model_ema.decay", "model_ema.num_updates")


def drawn(model, name):
    """The names and shapes of a small model's weights, which it is filled with."""
    state = {key: value for key, value in model.state_dict().items() if key not in CONSTANTS}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    again = (
        "cond_stage_model."
        if compvis_models.CONFIGS[name]["params"]["cond_stage_config"] == "__is_first_stage__"
        else "-"
    )
    weights = {key: torch.as_tensor(value) for key, value in compvis_models.weights(shapes).items()}
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith(again)}, strict=False)
    return shapes


@torch.no_grad()
def outputs(model, name):
    inputs = {key: torch.from_numpy(value) for key, value in compvis_models.inputs(name).items()}
    if compvis_models.averaged(name):
        model.use_averages()
    unet, condition = model.model.diffusion_model, inputs.get("condition")
    results = {}
    if hasattr(model, "cond_stage_model") and model.cond_stage_model is not model.first_stage_model:
        condition = results["condition"] = model.cond_stage_model(condition)
    concatenated = condition is not None and condition.ndim == 4

    def predict(latents, timesteps):
        if concatenated:
            return unet(torch.cat([latents, condition], dim=1), timesteps)
        return unet(latents, timesteps, condition)

    results["unet"] = predict(inputs["latents"], inputs["timesteps"])
    results["sampled"] = model.sample(inputs["latents"], compvis_models.STEPS, predict)
    results["encoded"] = model.first_stage_model.encode(inputs["pixels"])
    results["decoded"] = model.first_stage_model.decode(inputs["latents"][:1])
    return {key: value.numpy() for key, value in results.items()}


def architecture(config):
    """Numbers of parameters by part, and a hash of all names and shapes, of a published model."""
    with torch.device("meta"):
        model = LatentDiffusion(**config["params"])
    shapes = {key: list(value.shape) for key, value in model.state_dict().items() if not key.startswith(UNUSED)}
    if config["params"]["cond_stage_config"] == "__is_first_stage__":
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("cond_stage_model.")}
    parts = {part: [key for key in shapes if key.startswith(prefix)] for part, prefix in PARTS.items()}
    lines = sorted(f"{key} {shapes[key]}" for keys in parts.values() for key in keys)
    counts = {part: int(sum(np.prod(shapes[key]) for key in keys)) for part, keys in parts.items() if keys}
    return {**counts, "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def lightning(model):
    """What pytorch_lightning saves around a state dict, as far as a reader meets names of its classes."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    modules = {name: types.ModuleType(name) for name in names}
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    modules[names[-1]].ModelCheckpoint = callback
    sys.modules.update(modules)
    first = next(iter(model.parameters())).detach()
    state = {0: {"step": 3, "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.zeros_like(first)}}
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": model.state_dict(),
        "callbacks": {callback: {"best_model_score": torch.tensor(0.25), "monitor": "val/loss", "made": callback()}},
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 1e-6, "betas": (0.9, 0.999), "params": [0]}]}],
        "lr_schedulers": [{"base_lrs": [1.0], "lr_lambdas": [None], "best": np.float64(0.5), "seen": {1, 2}}],
    }


def check(folder):
    """Differences between diffusers, given our exports, and the originals."""
    import diffusers

    for name in ("unconditional", "super-resolution", "text", "text-large"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder / name)
        inputs = {key: torch.from_numpy(value) for key, value in compvis_models.inputs(name).items()}
        wanted, found = np.load(GOLDEN / f"{name}.npz"), {}
        condition = inputs.get("condition")
        with torch.no_grad():
            if name.startswith("text"):
                condition = found["condition"] = pipeline.bert(condition)[0]
                found["unet"] = pipeline.unet(inputs["latents"], inputs["timesteps"], condition).sample
            else:
                latents = [inputs["latents"], *([] if condition is None else [condition])]
                found["unet"] = pipeline.unet(torch.cat(latents, dim=1), inputs["timesteps"]).sample
            encoded = pipeline.vqvae.encode(inputs["pixels"])
            found["encoded"] = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            found["decoded"] = pipeline.vqvae.decode(inputs["latents"][:1]).sample
        for key, value in found.items():
            difference = np.abs(value.numpy() - wanted[key]).max() / np.abs(wanted[key]).max()
            print(f"{name} ({type(pipeline).__name__}): {key} differs by {difference:.1e} of the largest value")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="write the small checkpoints there")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare diffusers' outputs of our exports")
    options = parser.parse_args()
    if options.check:
        check(options.check / "diffusers")
        return
    GOLDEN.mkdir(exist_ok=True)
    for name, config in compvis_models.CONFIGS.items():
        torch.manual_seed(0)
        model = LatentDiffusion(**config["params"]).eval()
        shapes = drawn(model, name)
        if options.checkpoints:
            folder = options.checkpoints / name
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(lightning(model), folder / "model.ckpt")
            (folder / "config.yaml").write_text(json.dumps({"model": config}))
        names = np.array([f"{key} {json.dumps(shape)}" for key, shape in shapes.items()])
        np.savez_compressed(GOLDEN / f"{name}.npz", names=names, **outputs(model, name))
    small = torch.nn.Linear(2, 2)
    small.weight.data, small.bias.data = torch.arange(4.0).reshape(2, 2), torch.zeros(2)
    torch.save(lightning(small), GOLDEN / "lightning.ckpt")
    published = {
        model.name: architecture(model.original["config"]) for model in model_zoo.list_models() if model.original
    }
    (GOLDEN / "architectures.json").write_text(json.dumps(published, indent=1) + "\n")


if __name__ == "__main__":
    main()
