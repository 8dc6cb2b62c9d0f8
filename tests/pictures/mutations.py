"""Picture files that were good, and are not any more: `python tests/pictures/mutations.py 1000` reads and writes that
many of them, and prints what they came to, the slowest one and the memory that it took."""

import io
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from ppdiffusers.pictures import Document, Frame, ImageError, Metadata, format_of, write_document

SUFFIXES = ("png", "jpg", "tif", "webp", "gif", "bmp", "ppm", "tga", "avif")
EXIF = {0x10F: "Maker", 0x8769: {0x829A: 0.004, 0x9286: b"ASCII\0\0\0words"}, 0x8825: {1: "N", 2: (47.0, 22.0, 12.5)}}
METADATA = Metadata(EXIF, None, (300.0, 300.0), b"<x:xmpmeta></x:xmpmeta>", {"Title": "words", "Comment": "more"})


def good_files():
    """Suffix and bytes, of every format: single pictures of all kinds, animations and pages."""
    rng = np.random.default_rng(0)
    files = []
    for suffix in SUFFIXES:
        kind = format_of(f"x.{suffix}")
        if kind is None:
            continue
        for channels in (1, 2, 3, 4) if kind.alpha else (1, 3):
            for bits in (8, 16)[: kind.bits // 8]:
                for count in (1, 3) if kind.frames else (1,):
                    values = rng.integers(0, 2**bits, (count, 13, 17, channels))
                    pixels = values.astype(np.uint8 if bits == 8 else np.uint16)
                    file = io.BytesIO()
                    frames = iter([Frame(item, METADATA, 50.0) for item in pixels])
                    write_document(file, kind, frames, count=count, loop=0)
                    files.append((suffix, file.getvalue()))
    return files


def mutated(data, other, random):
    """`data` with one to a few kinds of damage."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.randrange(7)
        place = random.randrange(len(data)) if random.random() < 0.5 else random.randrange(min(len(data), 200))
        if kind == 0:  # bits
            for _ in range(random.choice((1, 3, 20))):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        elif kind == 1:  # a number that counts or points
            value = random.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 60000, len(data)))
            packed = struct.pack(random.choice("<>") + "I", value)[: random.choice((1, 2, 4))]
            data[place : place + len(packed)] = packed
        elif kind == 2:  # cut
            del data[max(place, 4) :]
        elif kind == 3:  # a piece is missing
            del data[place : place + random.choice((1, 4, 50))]
        elif kind == 4:  # a piece comes twice
            data[place:place] = data[max(0, place - random.choice((1, 12, 100))) : place]
        elif kind == 5:  # a piece of another file, or a whole one behind
            data[place if random.random() < 0.5 else len(data) :] = other[random.randrange(len(other)) // 2 :]
        else:
            data[place:place] = bytes(random.randrange(256) for _ in range(random.choice((1, 8, 64))))
        if not data:
            break
    return bytes(data)


def outcome(path, folder):
    """What becomes of a file: "written", or "refused" where it is an `ImageError`."""
    try:
        document = Document(path)
        kind = document.format or format_of("x.png")
        frames = document.frames()
        with open(folder / f"out{kind.suffix}", "w+b") as file:
            write_document(file, kind, frames, document.count, document.loop, document.has_default)
    except ImageError as error:
        assert path.name in str(error) or "result" in str(error) or "pages differ" in str(error), error
        return "refused"
    return "written"


def run(count, seed=0, patience=30.0):
    """Outcomes and their numbers, the slowest file's seconds, and the process's largest memory in MB."""
    import resource
    import signal

    def too_slow(*args):
        raise BaseException(f"a file took more than {patience} s")

    signal.signal(signal.SIGALRM, too_slow)
    draws, files = random.Random(seed), good_files()
    counts, slowest = Counter(), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            suffix, data = files[number % len(files)]
            path = folder / f"in.{suffix}"
            path.write_bytes(mutated(data, draws.choice(files)[1], draws))
            begun = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, patience)
            try:
                counts[outcome(path, folder)] += 1
            except BaseException:
                print(f"file {number} of seed {seed}", file=sys.stderr)
                Path(tempfile.gettempdir(), f"mutation-{seed}-{number}.{suffix}").write_bytes(path.read_bytes())
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.monotonic() - begun)
    return counts, slowest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    counts, slowest, memory = run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{dict(counts)}, slowest {slowest:.2f} s, memory {memory:.0f} MB")
