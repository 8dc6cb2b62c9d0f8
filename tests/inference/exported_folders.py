"""Exported folders for tests: what is in them, and how they break."""

import hashlib
import json

import numpy as np

CALL = {"num_inference_steps": 2, "generator": 3, "output_type": "np"}
# Smooth, as pictures are: of noise the decoder's nearest codes are a matter of rounding.
Y, X, C = np.meshgrid(np.linspace(0, 3, 9), np.linspace(0, 4, 12), np.arange(3), indexing="ij")
PICTURE = (0.5 + 0.4 * np.sin(X + 2 * C) * np.cos(Y * (C + 1))).astype(np.float32)


def agree(a, b):
    """Of pictures in [0, 1]."""
    return (np.abs(np.rint(np.asarray(a) * 255) - np.rint(np.asarray(b) * 255)) <= 1).mean() > 0.999


def manifest(folder):
    return json.loads((folder / "deployment.json").read_text())


def change(folder, **values):
    (folder / "deployment.json").write_text(json.dumps({**manifest(folder), **values}))


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = b"\x41" * 64
    file.write_bytes(data)


def rewrite(folder, name, data):
    """Other bytes, of which the manifest knows the size."""
    (folder / name).write_bytes(data)
    files = manifest(folder)["files"]
    files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(folder, files=files)


def newer_format(folder):
    change(folder, format=2)


def other_paddle(folder):
    change(folder, paddle="3.2.2")


def foreign_path(folder):
    change(folder, files={"../model_index.json": {"size": 1, "sha256": ""}})


def no_components(folder):
    change(folder, components=None)


def unknown_layer(folder):
    components = manifest(folder)["components"]
    components["unet"]["replaced"].append("nonsense")
    change(folder, components=components)


def other_inputs(folder):
    components = manifest(folder)["components"]
    del components["unet"]["parts"]["network"]["inputs"]["temb"]
    change(folder, components=components)


def no_json(folder):
    (folder / "deployment.json").write_text("{")


def missing_file(folder):
    (folder / "unet" / "network.pdiparams").unlink()


def cut_file(folder):
    (folder / "unet" / "network.pdiparams").write_bytes(b"short")
