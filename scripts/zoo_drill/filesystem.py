"""Caches that are full, closed, or full of traps."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from typing import Any

import model_zoo
from model_zoo import cache
from zoo_drill import ROOT
from zoo_drill.place import CHILD, CONFIG, FETCH, NAME, WEIGHTS, Place, Row, parts


def disk_full(place: Place, row: Row, runs: int) -> None:
    """The disk says no in the middle of a write: a limit of the file's length here, a small disk where one can be."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(runs):
        place.reset()
        limit = random.Random(f"{row.name} {number}").randrange(5000, len(place.weights))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            error = place.download()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        outcome, remark = place.state(error)
        if max((path.stat().st_size for path in parts(place)), default=0) != limit:
            outcome, remark = "wrong", "no part that can be continued is left"
        if place.state(place.download())[0] != "right":
            outcome, remark = "wrong", "not mended by another try"
        row.count(outcome, remark=remark)


def small_disk(place: Place, row: Row, runs: int) -> None:
    mount = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    for number in range(runs):
        place.reset()
        place.home.mkdir()
        size = random.Random(f"{row.name} {number}").randrange(100, len(place.weights) // 1024 - 50)
        script = f'mount -t tmpfs -o size={size}k none "{place.home}" || exit 77; cd {ROOT}; shift; exec "$0" "$@"'
        blind = "disk.check_space = lambda *arguments, **options: None\n" if number % 2 else ""
        after = "import os; kept = [f for _, _, fs in os.walk(sys.argv[1]) for f in fs]\n"
        code = blind + f"try:\n    {FETCH}except model_zoo.CacheError as e:\n    {after}    print(e, kept)\n"
        command = [*mount, script, sys.executable, "x", "-c", CHILD + code, str(place.home)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 77:
            row.remarks.append("not run: no file system may be mounted here")
            return
        told = "No space left on device" if blind else "are still to come"
        fine = done.returncode == 0 and told in done.stdout and "model_state.pdparams'" not in done.stdout
        row.count("absent" if fine else "wrong", remark=f"{number}: {done.stdout} {done.stderr}")


def locked_up(place: Place, row: Row, runs: int) -> None:
    """Folders that cannot be written or entered, for a user that the file system can refuse something."""
    before = ("unshare", "--user") if os.geteuid() == 0 else ()
    for number in range(runs):
        rng = random.Random(f"{row.name} {number}")
        place.reset()
        (place.folder / "unet").mkdir(parents=True)
        target = rng.choice((place.home, place.folder.parent, place.folder, place.folder / "unet"))
        target.chmod(rng.choice((0o555, 0o500, 0o000, 0o400)))
        process = place.child(FETCH, before)
        _, err = process.communicate()
        target.chmod(0o755)
        last = err.strip().rpartition("\n")[2]
        if process.returncode == 0:  # where only the top is closed, what lies below may be open
            outcome = place.state(None)[0]
        else:
            outcome = "absent" if "CacheError: " in last and "MODEL_ZOO_HOME" in last else "wrong"
            if place.state(place.download())[0] != "right":
                outcome = "wrong"
        row.count(outcome, remark=f"{number}: {target} {last}")


def hostile(place: Place, row: Row, runs: int) -> None:
    """Names and manifests that lead elsewhere, are too long, or clash in upper and lower case."""
    rng = random.Random(row.name)
    outside = place.root / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / "mine").write_text("of somebody else")
    place.reset()
    listing = sorted({*os.listdir(place.root), "home"})
    up = ["../outside/mine", "a/../../outside/x", "/etc/x", "..", "a//b", "C:\\x", "a\\..\\b", "a\0b"]
    up += ["x" * 5000, "x/" * 2500]
    kinds = ("a path in a manifest", "a name in a manifest", "a name that is asked for", "case", "cache_dir")
    for number in range(runs):
        place.reset()
        path = up[number % len(up)]
        values: dict[str, Any] = {"files": [{"path": WEIGHTS}, {"path": CONFIG}]}
        name: str = NAME
        kind = kinds[number % 5]
        if kind == "a path in a manifest":
            values["files"].append({"path": path})
        elif kind == "a name in a manifest":
            values["aliases"] = [f"drill/{path}"]
        elif kind == "a name that is asked for":
            name = rng.choice((path, f"drill/{path}", f"drill/model/{path}"))
        elif kind == "case":
            values["files"].append({"path": WEIGHTS.upper() if number % 2 else "UNET"})
            values["files"] += [{"path": "unet"}] if number % 2 == 0 else []
        place.register(values)
        try:
            options = {"cache_dir": f"{place.home}/{'y' * 5000}"} if kind == "cache_dir" else {}
            model_zoo.download(name, progress=False, **options)
            outcome, remark = "wrong", "it was accepted"
        except model_zoo.ModelZooError as error:
            clear = len(str(error)) < 1000 and "\n" not in str(error)
            outcome, remark = ("absent", "") if clear else ("wrong", str(error))
        except Exception as error:
            outcome, remark = "wrong", f"{type(error).__name__}: {str(error)[:200]}"
        if place.home.exists() and any(path.is_file() for path in place.home.rglob("*")):
            outcome, remark = "wrong", "something was written"
        if sorted(os.listdir(outside)) != ["mine"] or sorted({*os.listdir(place.root), "home"}) != listing:
            outcome, remark = "wrong", "something outside was touched"
        row.count(outcome, remark=f"{number}: {kind} {path[:40]!r}: {remark}")
    place.describe(hashes=False)


def links(place: Place, row: Row, runs: int) -> None:
    """Symbolic links in the cache, to folders and files outside of it."""
    outside = place.root / "outside"
    for number in range(runs):
        place.reset()
        shutil.rmtree(outside, ignore_errors=True)
        (outside / "unet").mkdir(parents=True)
        for name in (CONFIG, WEIGHTS, "mine"):
            (outside / name).write_text("of somebody else")
        spots = [place.home / ".locks", place.folder.parent, place.folder, place.folder / "unet"]
        spots += [place.folder / name for name in (cache.MARKER, f".{CONFIG}.record.json", f".{CONFIG}.01234567.part")]
        spots += [cache.locks_of(place.folder, place.home) / f"{CONFIG}.lock"]
        spot = spots[number % len(spots)]
        spot.parent.mkdir(parents=True, exist_ok=True)
        is_folder = spots.index(spot) < 4
        spot.symlink_to(outside if is_folder else outside / "mine")
        outcome, remark = place.state(place.download()) if not is_folder else in_link(place)
        if any((outside / name).read_text() != "of somebody else" for name in (CONFIG, WEIGHTS, "mine")):
            outcome, remark = "wrong", "a file outside was written"
        if len([path for path in outside.rglob("*") if path.is_file()]) != 3:
            outcome, remark = "wrong", "a file outside was made or removed"
        row.count(outcome, remark=f"{number}: {spot}: {remark}")
    shutil.rmtree(outside, ignore_errors=True)


def in_link(place: Place) -> tuple[str, str]:
    """The outcome where what lies behind a link counts for nothing but must stay."""
    error = place.download()
    refused = isinstance(error, model_zoo.CacheError) and "leads out of the cache" in str(error)
    return ("absent", "") if refused else ("wrong", f"not refused: {error}")
