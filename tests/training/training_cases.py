"""Small pictures with every annotation, and small models of every task, for the tests of training."""

import json

import numpy as np
from PIL import Image

from ppdiffusers.training.configuration import configuration

COLOURS = {"blue": (40, 80, 220), "red": (220, 60, 40)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS]
SIZE = 16


def write_pictures(folder, count=8, size=SIZE):
    """Pictures of a coloured box on grey: in folders by colour, with captions, label maps, masks and boxes."""
    random = np.random.default_rng(0)
    images, boxes, captions = [], [], []
    for i in range(count):
        colour = list(COLOURS)[i % 2]
        pixels = np.full((size, size, 3), random.integers(80, 180, 3), np.uint8)
        side = size // 2
        top, left = random.integers(0, size - side + 1, 2)
        pixels[top : top + side, left : left + side] = COLOURS[colour]
        name = f"{colour}/{i}.png"
        labels = np.zeros((size, size), np.uint8)
        labels[top : top + side, left : left + side] = 1 + i % 2
        for kind, values in ((".", pixels), ("labels", labels), ("masks", 255 * (labels > 0).astype(np.uint8))):
            (folder / kind / colour).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / kind / name)
        captions.append(json.dumps({"file_name": name, "text": colour}))
        images.append({"id": i, "file_name": name, "width": size, "height": size})
        box = [int(left), int(top), side, side]
        boxes.append({"image_id": i, "bbox": box, "category_id": 7 + 2 * (i % 2)})
    kinds = [{"id": 7 + 2 * i, "name": name} for i, name in enumerate(COLOURS)]
    coco = {"images": images, "annotations": boxes, "categories": kinds}
    (folder / "annotations.json").write_text(json.dumps(coco))
    (folder / "metadata.jsonl").write_text("\n".join(captions) + "\n")
    return folder


def vqvae(kind="VQModel", channels=(16, 16)):
    names = len(channels)
    return {
        "_class_name": kind, "block_out_channels": list(channels), "down_block_types": ["DownEncoderBlock2D"] * names,
        "up_block_types": ["UpDecoderBlock2D"] * names, "norm_num_groups": 4, "latent_channels": 3,
        "mid_block_add_attention": False, **({"num_vq_embeddings": 128} if kind == "VQModel" else {}),
    }  # fmt: skip


def unet(in_channels=3, width=None, channels=(16, 24)):
    """With cross-attention to a condition of `width`, where one is given."""
    shared = {
        "sample_size": SIZE // 2, "in_channels": in_channels, "out_channels": 3, "layers_per_block": 1,
        "block_out_channels": list(channels), "norm_num_groups": 4,
    }  # fmt: skip
    if width is None:
        blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}
        return {**shared, **blocks}
    down, up = ["DownBlock2D", "CrossAttnDownBlock2D"], ["CrossAttnUpBlock2D", "UpBlock2D"]
    return {
        **shared, "down_block_types": down, "up_block_types": up, "mid_block_type": None, "cross_attention_dim": width,
        "attention_head_dim": 4,
    }  # fmt: skip


def encoder(words, length, width=16):
    return {
        "vocab_size": words, "max_position_embeddings": length, "encoder_layers": 1, "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "head_dim": 8, "d_model": width, "dropout": 0.0,
    }  # fmt: skip


SCHEDULER = {
    "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False,
    "prediction_type": "v_prediction", "timestep_spacing": "trailing",
}  # fmt: skip
MODELS = {
    "super-resolution": {"unet": unet(6)},
    "unconditional": {"unet": unet()},
    "inpainting": {"unet": unet(7)},
    "text-to-image": {"unet": unet(3, 16), "bert": encoder(len(WORDS), 4)},
    "class-conditional": {
        "unet": unet(3, 16), "class_embedder": {"num_classes": 3, "embed_dim": 16, "unconditional_class": 2},
    },
    "semantic-synthesis": {"unet": unet(5), "rescaler": {"n_stages": 1, "in_channels": 3, "out_channels": 2}},
    "layout-to-image": {"unet": unet(3, 16), "layout_encoder": encoder(64, 8)},
}  # fmt: skip
ANNOTATIONS = {"masks": "masks", "labels": "labels"}  # named in every run, or they would be pictures too


class Words:
    """A tokenizer of whole words, as paddlenlp's are called."""

    def __call__(self, texts, max_length=4, **options):
        rows = [["[CLS]", *text.split()[: max_length - 2], "[SEP]"] for text in texts]
        padded = [row + ["[PAD]"] * (max_length - len(row)) for row in rows]
        return {"input_ids": [[WORDS.index(word) for word in row] for row in padded]}

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def given(task):
    """The components that a configuration cannot name without paddlenlp."""
    return {"tokenizer": Words()} if task == "text-to-image" else None


def make(
    task,
    folder,
    first_stage=None,
    data=None,
    models=None,
    reconstruction=None,
    scheduler=None,
    diffusion=None,
    **changes,
):
    """A checked configuration of a small run."""
    values = {
        "task": task, "steps": 4, "batch_size": 4, "log_every": 2, "save_every": 2, "validate_every": 100,
        "validation_pictures": 4, "warmup_steps": 1, "learning_rate": 1e-3, **changes,
        "data": {"path": str(folder), "size": SIZE, "workers": 0, **ANNOTATIONS, **(data or {})},
        "diffusion": {"sampling_steps": 2, **(diffusion or {})},
        "reconstruction": {"perceptual": 0.0, **(reconstruction or {})},
    }  # fmt: skip
    if task in ("vq", "kl"):
        values["models"] = {"vqvae": first_stage or vqvae("VQModel" if task == "vq" else "AutoencoderKL")}
    else:
        values["models"] = {
            "vqvae": first_stage or vqvae(), "scheduler": {**SCHEDULER, **(scheduler or {})}, **MODELS[task],
            **(models or {}),
        }  # fmt: skip
    return configuration(values)
