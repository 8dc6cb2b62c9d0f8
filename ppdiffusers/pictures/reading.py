"""Reading picture files that nobody vouches for: one parser a file, in bounded memory, whole or not at all.

What the first bytes say decides which parser sees a file; sizes are checked before anything is unpacked; whatever a
parser raises becomes an `ImageError` that names the file.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional

import numpy as np
from PIL import Image, ImageOps

from ppdiffusers.config import PathLike
from ppdiffusers.pictures.errors import ImageError
from ppdiffusers.pictures.formats import BY_NAME, Format, sniff
from ppdiffusers.pictures.metadata import Metadata, read_metadata

MAX_PIXELS = 1 << 25  # of one picture: 33 megapixels
MAX_PIXELS_OF_ALL = 1 << 30  # of the frames of an animation, the pages of a document
MAX_BYTES = 1 << 28  # of a file that its parser reads into memory whole
HEAD = 512  # bytes that tell a format

_READ_WHOLE = ("WEBP", "AVIF", "JPEG2000", "ICO")


@dataclass
class Frame:
    """One picture of a file.

    `pixels`: `[H, W, C]`, uint8 or uint16, upright; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha). What is
    written as PNG or TIFF may be another object with `shape` and `dtype` whose slices of rows, asked for from top to
    bottom, are such arrays: a large picture need not be in memory as a whole.
    `duration`: milliseconds that a frame of an animation is shown. `metadata`: of the page, where it has some of its
    own, else of the file.
    """

    pixels: np.ndarray
    metadata: Metadata
    duration: float = 0.0


class Document:
    """A picture file that was opened and looked at; its pixels are read when `frames` is called.

    Attributes: `name` for messages; `format` if it can be written too; `width`, `height` of the first frame as stored;
    `count` of frames; `animated`; `loop`: how often an animation runs, 0 for ever, None for once; `has_default`: the
    first frame of a PNG is shown only where animations are not; `bits` of a channel, 8 or 16; `lossless`: whether its
    pixels were stored without loss.

    Raises:
        ImageError: no such file, no regular file, not a picture, damaged, or more than `max_pixels`.
    """

    def __init__(self, file: PathLike, name: str = "", max_pixels: int = MAX_PIXELS):
        self.path = Path(file)
        self.name = name or str(file)
        self.max_pixels = max_pixels
        head = _head(self.path, self.name)
        self._parser = sniff(head, self.name)
        if self._parser in _READ_WHOLE and self.path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{self.name} has more than {MAX_BYTES >> 20} MB; save it smaller, or as PNG")
        with _damage_named(self.name, max_pixels), self._open() as image:
            self.width, self.height = image.size
            self.format: Optional[Format] = BY_NAME.get(image.format or "")
            kind = self.format.frames if self.format else ""
            self.count = int(getattr(image, "n_frames", 1)) if kind else 1
            self.animated = kind == "animation" and self.count > 1
            self.has_default = bool(self.animated and getattr(image, "default_image", False))
            self.loop: Optional[int] = image.info.get("loop") if self.animated else None
            if self.animated and image.format != "GIF":
                self.loop = int(self.loop or 0)
            lossy = self._parser in ("JPEG", "AVIF", "JPEG2000") or self._parser == "WEBP" and _is_lossy_webp(self.path)
            self.lossless = not lossy
            self.bits = 16 if _depth(image) and not self.animated else 8
        self._check_all(self.count * self.width * self.height)

    def frames(self) -> Iterator[Frame]:
        """Every frame in turn; each is read when it is asked for, and none is kept.

        Raises:
            ImageError: the file is damaged.
        """
        metadata: Optional[Metadata] = None
        total = 0
        with contextlib.ExitStack() as opened:
            with _damage_named(self.name, self.max_pixels):
                image = opened.enter_context(self._open())
                low = opened.enter_context(self._open()) if self.bits == 16 else None
            for number in range(self.count):
                with _damage_named(self.name, self.max_pixels):
                    if number:
                        image.seek(number)
                        self._check_size(image)
                    total += image.width * image.height
                    self._check_all(total)
                    if low is not None:
                        low.seek(number)
                    pixels = _pixels(image, low)
                    if self.animated and self._parser != "PNG":
                        pixels = _without_needless_colours(pixels)
                    if metadata is None or not self.animated:
                        metadata = read_metadata(image, _gif_xmp(self.path) if self._parser == "GIF" else None)
                    duration = _duration(image) if self.animated else 0.0
                yield Frame(pixels, metadata, duration)

    def only(self) -> Frame:
        """The frame of a file with one.

        Raises:
            ImageError: it has more, or is damaged.
        """
        if self.count > 1:
            raise ImageError(f"{self.name} has {self.count} frames, and this takes one picture; save one of them")
        return next(self.frames())

    def _open(self) -> Image.Image:
        try:
            image = Image.open(self.path, formats=[self._parser])
        except KeyError:
            raise ImageError(f"{self.name}: this Pillow does not read {self._parser}; pip install -U pillow") from None
        try:
            self._check_size(image)
        except ImageError:
            image.close()
            raise
        return image

    def _check_all(self, pixels: int) -> None:
        if pixels > MAX_PIXELS_OF_ALL:
            raise ImageError(
                f"{self.name} has {self.count} frames with more than {MAX_PIXELS_OF_ALL / 1e6:.0f} megapixels in all; "
                "cut it into several files"
            )

    def _check_size(self, image: Image.Image) -> None:
        if image.width * image.height > self.max_pixels:
            raise too_large(self.name, image.width, image.height, self.max_pixels)
        if min(image.size) < 1:
            raise ImageError(f"{self.name} is damaged (it has no pixels)")


def _head(path: Path, name: str) -> bytes:
    """The first bytes of a regular file."""
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder, not a picture")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name} is no regular file; give - to read from standard input")
        with open(path, "rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except ImageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # permissions, a circle of links, a name with a NUL
        raise ImageError(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def open_image(file: PathLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the first picture of a file whole, turned upright as its EXIF orientation says.

    Raises:
        ImageError: no such file, not a picture, cut short, or more than `max_pixels`.
    """
    document = Document(file, max_pixels=max_pixels)
    with _damage_named(document.name, max_pixels), document._open() as image:
        image.load()
        result = upright(image)
        return result if result is not image else image.copy()


@contextlib.contextmanager
def _damage_named(name: str, max_pixels: int) -> Iterator[None]:
    """Whatever the parsers raise, as an `ImageError`; their warnings about damage are not for users."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, KeyboardInterrupt):
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is larger than the limit of {max_pixels / 1e6:.0f} megapixels; crop it") from None
    except EOFError:
        raise ImageError(f"{name} is damaged (it ends too early)") from None
    except Exception as error:  # a damaged file leads Pillow to any of them: struct.error, KeyError, SyntaxError, ...
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"{name} is damaged ({what})") from None


def too_large(name: str, width: int, height: int, max_pixels: int) -> ImageError:
    return ImageError(
        f"{name} is {width}x{height}, {width * height / 1e6:.0f} megapixels; "
        f"the limit is {max_pixels / 1e6:.0f}: crop it or cut it into several"
    )


def upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says, which the result has no more."""
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # EXIF that cannot be read or written says nothing of the pixels
        return image


def to_array(image: Image.Image) -> np.ndarray:
    """`[H, W, C]`, uint8 or uint16, of a PIL image of any mode: grey stays grey, transparency becomes alpha, other
    colours than RGB are converted, by their profile where they have one.

    Raises:
        ImageError: floats, or 32-bit values beyond 16 bits.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow may widen to 32
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"a 32-bit picture with values up to {values.max()}; scale it to 16 or 8 bits first")
        return _keyed(values.astype(np.uint16)[..., None], image.info.get("transparency"))
    if image.mode == "F":
        raise ImageError("a 32-bit float picture (mode F) has no agreed range; convert it to mode L first")
    if image.mode in ("P", "PA"):
        grey = _has_grey_palette(image)
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        values = np.asarray(image)
        return np.ascontiguousarray(values[..., [0, 3] if values.shape[2] == 4 else [0]]) if grey else values
    if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        image = image.convert("LA" if image.mode != "RGB" else "RGBA")
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):  # CMYK, YCbCr, LAB, HSV
        image = to_srgb(image)
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def to_srgb(image: Image.Image) -> Image.Image:
    """In sRGB: by the picture's own profile if that fits its mode, else by Pillow's formula."""
    profile = image.info.get("icc_profile")
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile:
        try:
            from PIL import ImageCms

            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            return ImageCms.profileToProfile(image, source, srgb, intent, target) or image
        except Exception:  # a damaged profile, one of other colours, a Pillow without colour management
            pass
    return image.convert(target)


def _has_grey_palette(image: Image.Image) -> bool:
    palette = np.frombuffer(bytes(image.getpalette() or []), np.uint8)
    colours = palette[: len(palette) // 3 * 3].reshape(-1, 3)
    return bool(len(colours)) and bool((colours == colours[:, :1]).all())


def _without_needless_colours(pixels: np.ndarray) -> np.ndarray:
    """Grey where red, green and blue agree everywhere: formats of animations store grey as colours."""
    if pixels.shape[2] < 3 or not (pixels[..., :3] == pixels[..., :1]).all():
        return pixels
    return np.ascontiguousarray(pixels[..., [0, 3] if pixels.shape[2] == 4 else [0]])


def _is_lossy_webp(path: Path) -> bool:
    """Whether the first picture in a WebP is stored with loss: what its first chunk of pixels is."""
    with open(path, "rb") as file:
        place = 12
        for _ in range(16):
            file.seek(place)
            header = file.read(8)
            if header[:4] == b"ANMF":
                place += 24  # into the frame
                continue
            if header[:4] in (b"VP8 ", b"VP8L") or len(header) < 8:
                break
            size = int.from_bytes(header[4:], "little")
            place += 8 + size + size % 2
    return header[:4] != b"VP8L"


def _gif_xmp(path: Path) -> Optional[bytes]:
    """The XMP packet of a GIF, which Pillow skips: it stands in no blocks, and a ramp of bytes ends it."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES)
    begin, start = b"!\xff\x0bXMP DataXMP", data.find(b"!\xff\x0bXMP DataXMP")
    end = data.find(b"\x01\xff\xfe\xfd\xfc", start)
    return data[start + len(begin) : end] if 0 <= start < end else None


def _duration(image: Image.Image) -> float:
    try:
        duration = float(image.info.get("duration", 0))
    except (TypeError, ValueError):
        return 0.0
    return duration if 0 <= duration < 1e8 else 0.0


# Pillow's unpackers keep the high bytes of 16-bit colours only. They come in pairs for both orders of bytes, so that a
# second pass in the other order brings the low ones.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _depth(image: Image.Image) -> str:
    """Whether a picture that is not loaded yet has 16 bits a channel: "grey", "grey alpha", "colour", else ""."""
    raw = _raw_mode(image)
    if image.mode.startswith("I"):
        return "grey"
    if raw == "LA;16B":
        return "grey alpha"
    planar = getattr(image, "tag_v2", {}).get(284) == 2  # a plane after the other: unpacked in another way
    whole = raw[:-1] in ("RGB;16", "RGBA;16", "RGBX;16") and raw[-1:] in _OTHER_ORDER
    return "colour" if whole and image.mode in ("RGB", "RGBA") and not planar else ""


def _pixels(image: Image.Image, low: Optional[Image.Image]) -> np.ndarray:
    """`[H, W, C]` of a picture, and of the same opened a second time where 16 bits are wanted; both are loaded."""
    depth = _depth(image) if low is not None else ""
    if low is None or depth in ("", "grey"):
        image.load()
        return to_array(upright(image))
    if depth == "grey alpha":  # 2 x 16 bits, read as 4 x 8
        _unpack_as(low, "RGBA")
        image.load()
        low.load()
        parts = np.asarray(upright(low)).astype(np.uint16)
        return parts[..., 0::2] << 8 | parts[..., 1::2]
    raw = _raw_mode(image)
    _unpack_as(low, raw[:-1] + _OTHER_ORDER[raw[-1]])
    image.load()
    low.load()
    key = image.info.get("transparency")
    values = np.asarray(upright(image)).astype(np.uint16) << 8 | np.asarray(upright(low))
    return _keyed(values, key)


def _keyed(values: np.ndarray, key: Any) -> np.ndarray:
    """With an alpha channel, where one colour stands for transparency."""
    if values.shape[2] not in (1, 3) or not isinstance(key, (int, tuple)) or np.size(key) != values.shape[2]:
        return values
    opaque = (values != np.asarray(key, np.int64)).any(axis=-1, keepdims=True)
    return np.concatenate([values, opaque * np.uint16(65535)], axis=-1).astype(np.uint16)


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, (tuple, list)) and arguments else arguments)


def _unpack_as(image: Image.Image, raw: str) -> None:
    changed: List[Any] = []
    for tile in image.tile:  # type: ignore[attr-defined]
        codec, extents, offset, arguments = tile
        new = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
        changed.append(type(tile)(*(codec, extents, offset, new)) if hasattr(tile, "_replace") else
                       (codec, extents, offset, new))  # fmt: skip
    image.tile = changed  # type: ignore[attr-defined]
