"""Golden outputs of diffusers for tests/models (run in the reference environment: torch, diffusers, transformers).

PYTHONPATH=.:tests/models python scripts/make_reference_text_models.py
"""

import numpy as np
import text_configurations
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from make_reference_models import GOLDEN, fill

SAMPLE_SEED = 5  # of the draw from the posterior


def unet_output(model, config):
    inputs = [None if x is None else torch.from_numpy(x) for x in text_configurations.unet_inputs(config)]
    return model(*inputs).sample.numpy()


def autoencoder_outputs(model, config):
    x = torch.from_numpy(text_configurations.autoencoder_input(config))
    posterior = model.encode(x).latent_dist
    sample = posterior.sample(torch.Generator().manual_seed(SAMPLE_SEED))
    shifted = type(posterior)(0.5 * posterior.parameters + 0.1)
    return {
        "moments": posterior.parameters.numpy(),
        "sample": sample.numpy(),
        "kl": posterior.kl().numpy(),
        "kl-other": posterior.kl(shifted).numpy(),
        "nll": posterior.nll(sample).numpy(),
        "decoded": model.decode(posterior.mode()).sample.numpy(),
    }


def bert_output(model, config):
    return model(torch.from_numpy(text_configurations.bert_input(config))).last_hidden_state.numpy()


def bert(config):
    return LDMBertModel(LDMBertConfig(**config))


def save_folders():
    """What diffusers and transformers write, and what the saved models return."""
    saved, outputs = GOLDEN / "saved", {}
    model = fill(UNet2DConditionModel(**text_configurations.SAVED_UNET), 0)
    model.save_pretrained(saved / "unet")
    outputs["unet"] = unet_output(model, text_configurations.SAVED_UNET)
    model = fill(AutoencoderKL(**text_configurations.SAVED_AUTOENCODER), 0)
    model.save_pretrained(saved / "vqvae", safe_serialization=False)
    outputs["vqvae"] = autoencoder_outputs(model, text_configurations.SAVED_AUTOENCODER)["decoded"]
    model = fill(bert(text_configurations.SAVED_BERT), 0)
    model.save_pretrained(saved / "bert")
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    outputs["bert"] = bert_output(model, text_configurations.SAVED_BERT)
    np.savez_compressed(saved / "outputs.npz", **outputs)


@torch.no_grad()
def main():
    outputs = {}
    for seed, (name, config) in enumerate(text_configurations.UNETS.items()):
        outputs[name] = unet_output(fill(UNet2DConditionModel(**config), seed), config)
    np.savez_compressed(GOLDEN / "unet_2d_condition.npz", **outputs)
    outputs = {}
    for seed, (name, config) in enumerate(text_configurations.AUTOENCODERS.items()):
        for key, value in autoencoder_outputs(fill(AutoencoderKL(**config), seed), config).items():
            outputs[f"{name}/{key}"] = value
    np.savez_compressed(GOLDEN / "autoencoder_kl.npz", **outputs)
    outputs = {}
    for seed, (name, config) in enumerate(text_configurations.BERTS.items()):
        outputs[name] = bert_output(fill(bert(config), seed), config)
    np.savez_compressed(GOLDEN / "ldm_bert.npz", **outputs)
    save_folders()


if __name__ == "__main__":
    main()
