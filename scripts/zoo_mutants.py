#!/usr/bin/env python3
# ruff: noqa: E501
"""How many changes of the zoo's lines of safety its tests notice.

    python scripts/zoo_mutants.py [--only WORD ...]

Each mutant replaces one piece of a file in a copy of the repository and runs the tests named beside it; it is killed
where one of them fails. Prints a line each, and the score. Takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCAN = "tests/checkpoints/test_checkpoint_scan.py"
DRILL = "tests/checkpoints/test_checkpoint_hostile.py"
Z = "tests/model_zoo/test_zoo_"
ODD = f"{Z}answers.py {Z}faults.py"

# File, what stands there, what is put in its place, tests.
MUTANTS: list[tuple[str, str, str, str]] = [
    # pickles
    ("formats/names.py", "return type(value) in (Function, Marker, Call)", "return type(value) in (Function, Call)", SCAN),
    ("formats/names.py", "in (Function, Marker, Call)", "in (Marker, Call)", SCAN),
    ("formats/names.py", "in (Function, Marker, Call)", "in (Function, Marker)", SCAN),
    ("formats/names.py", ' or (type(value) is dict and "__builtins__" in value)', "", SCAN),
    ("formats/names.py", "state[2:] == (None, None, None, -1, -1, 0)", "state[2:7] == (None, None, None, -1, -1)", SCAN),
    ("formats/names.py", 'if shape != (0,) or machine.content(code) != b"b"', 'if machine.content(code) != b"b"', SCAN),
    ("formats/names.py", 'or key.startswith("__")', "", SCAN),
    ("formats/names.py", "if part is not None and type(part) is not dict:", "if False:", SCAN),
    ("formats/names.py", 'if ignored or expression != "data"', 'if ignored', SCAN),
    ("formats/names.py", "    names[\"__builtins__\"] = None  # as eval does: see `names_something`\n", "", SCAN),
    ("formats/machine.py", "type(arguments) is Call and function.build not in TAKE_NAMES", "False", SCAN),
    ("formats/machine.py", "return as_data(self.stack.pop())", "return self.stack.pop()", SCAN),
    ("formats/machine.py", "target.extend(map(as_data, items))", "target.extend(items)", SCAN),
    ("formats/machine.py", "if self.held > MAX_HELD * len(self.data) + HELD_SLACK:", "if False:", SCAN),
    ("formats/machine.py", "if self.text_bytes > MAX_TEXT:", "if False:", SCAN),
    ("formats/machine.py", "            place = window.stop\n", "            place = stop\n", SCAN),
    ("formats/machine.py", "if self.steps > MAX_STEPS:", "if False:", DRILL),
    ("formats/machine.py", "            as_state(state)\n        else:", "            pass\n        else:", SCAN),
    ("formats/scan.py", "if archive.ends_here(data):", "if False:", SCAN),
    ("formats/scan.py", "if _names_as_pickle(data):", "if False:", SCAN),
    ("formats/scan.py", "    if _is_tar(data):  # whatever", "    if False:  # whatever", SCAN),
    ("formats/scan.py", 'raise FormatError(f"has {len(data) - end} bytes after its end")', "pass", SCAN),
    ("formats/scan.py", "values.keys() & {\"error\", \"errors\", \"message\"}", "False", SCAN),
    ("formats/scan.py", "(<!--.*?-->", "(<!--x-->", SCAN),
    ("formats/archive.py", "if end != program.stop:", "if False:", SCAN),
    ("formats/archive.py", 'if not known and not (name.endswith("/") and not entry.size):', "if False:", SCAN),
    ("formats/archive.py", "if any(end > following for (_, end), (following, _) in zip(places, places[1:])):", "if False:", SCAN),
    ("formats/archive.py", "or crc != self.crc", "", Z + "importing.py"),
    ("formats/safetensors.py", "if length > MAX_HEADER:", "if False:", DRILL),
    # import
    ("importing.py", "        disk.sync(copy.fileno())  # before the marker vouches for it\n", "", Z + "importing.py"),
    ("importing.py", "if file.path in hashes:", "if False:", Z + "importing.py"),
    ("importing.py", 'if kind not in (b"0", b"\\0", b"5"):', 'if kind not in (b"0", b"\\0", b"5", b"S", b"1", b"2"):', Z + "importing.py"),
    ("importing.py", "if size > MOST_HEADER:", "if False:", Z + "importing.py"),
    ("importing.py", "if unpacked > packed * MOST_INFLATION + INFLATION_SLACK:", "if False:", Z + "importing.py"),
    ("importing.py", 'or ".." in parts', "", Z + "importing.py"),
    ("importing.py", "if size > limit:", "if False:", Z + "importing.py"),
    ("importing.py", 'magic[:2] == b"PK"', "True", Z + "importing.py"),
    ("importing.py", "wrong = complaint(target) if file.sha256 is None else None", "wrong = None", Z + "importing.py"),
    # transfer
    ("transfer.py", "if answer.status == 416 and self._is_all(answer, part):", "if False:", ODD),
    ("transfer.py", "if self.file.wrong_size(part.size) or not agreed:", "if self.file.wrong_size(part.size):", ODD),
    ("transfer.py", 'if self.file.wrong_size(part.size) or not agreed:', "if not agreed:", ODD),
    ("transfer.py", 'if answer.header("Content-Range"):', "if False:", ODD),
    ("transfer.py", "if part.source.length not in (None, source.length) or not (mixed or same):", "if part.source.length not in (None, source.length):", ODD),
    ("transfer.py", "same = part.source.agrees(source) and", "same =", ODD),
    ("transfer.py", "if part.size + len(block) > limit:", "if False:", ODD + " " + Z + "mirrors.py"),
    ("transfer.py", 'if self.sha256 is None and kind.startswith("text/html")', "if False", Z + "mirrors.py"),
    ("transfer.py", "if answer.encoding:", "if False:", ODD),
    ("transfer.py", "got_on = part.size > best + ", "got_on = True or part.size > best + ", ODD),
    ("transfer.py", "if elapsed > policy.read_timeout and part.size - first", "if False and part.size - first", ODD),
    ("transfer.py", "return self.file.wrong_size(part.size) or part.complaint()", "return part.complaint()", ODD),
    ("transfer.py", "return self.file.wrong_size(part.size) or part.complaint()", "return self.file.wrong_size(part.size)", ODD),
    ("transfer.py", "        if found[\"sha256\"] == self.sha256:\n            return None", "        return None", ODD),
    ("transfer.py", "if source.change(now) is not None:", "if False:", Z + "mirrors.py"),
    ("digests.py", 'None if self.etag.startswith("W/") else self.etag', "self.etag", ODD),
    ("http.py", 'if url.startswith("https:") and not new.startswith("https:"):', "if False:", ODD),
    ("http.py", "if len(lengths) > 1:", "if False:", ODD),
    ("http.py", "left = self._client.deadline - time.monotonic()", "left = 1e9", ODD),
    ("part.py", "if self._alone and left.here:", "if left.here:", Z + "resume.py"),
    ("part.py", "if here or hashed else", "if True else", Z + "resume.py"),
    ("part.py", "            disk.sync(self._stream.fileno())\n            self._close()\n            os.replace", "            self._close()\n            os.replace", Z + "resume.py"),
    ("disk.py", "alone = held and not _second_lock(path)", "alone = held", Z + "resume.py"),
    ("disk.py", "if usage.total and usage.free < need + spare:", "if False:", Z + "filesystem.py"),
    # cache, verification, registry
    ("cache.py", "if not os.path.join(real, \"\").startswith(inside):", "if False:", Z + "filesystem.py"),
    ("cache.py", "and not recorded.damaged", "", Z + "verify.py"),
    ("cache.py", "if is_complete(model, folder):\n                raise CacheError", "if False:\n                raise CacheError", Z + "importing.py"),
    ("verification.py", "if known.sha256 != sha256:", "if False:", Z + "verify.py"),
    ("verification.py", 'return Finding(file.path, "unknown", "as when', 'return Finding(file.path, "ok", "as when', Z + "verify.py"),
    ("manifest.py", "abs(size - self.approximate_size) > self.slack", "False", Z + "verify.py"),
    ("manifest.py", "if size == 0 and self.sha256 is None:", "if False:", Z + "verify.py"),
    ("manifest.py", "if len(items) > MOST_FILES:", "if False:", Z + "places.py"),
    ("registry.py", "if len(body) > LARGEST:", "if False:", Z + "places.py"),
    ("registry.py", "thread.join(max(0.0, until - time.monotonic()))", "thread.join()", Z + "places.py"),
    ("registry.py", "and _rival(model, layers[:index], layer)[0] is None", "", Z + "places.py"),
    ("registry.py", "            elif not by_name:", "            elif False:", Z + "places.py"),
    ("registry.py", "replaced = other.override and not layer.override", "replaced = False", Z + "places.py"),
    ("registry.py", 'if self.url.startswith("https:") and any(', "if any(() for _ in ()) and any(", Z + "places.py"),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="mutants of files whose names contain one of these")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(word in mutant[0] for word in options.only or ("",))]
    killed, lived = 0, []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("model_zoo", "ppdiffusers", "tests", "scripts"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        for name, old, new, tests in chosen:
            file = copy / "model_zoo" / name
            text = file.read_text()
            if old not in text:
                print(f"STALE    {name}: {old[:70]!r} is not there", flush=True)
                lived.append(name)
                continue
            file.write_text(text.replace(old, new, 1))
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
            try:
                done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=180)
                dead = done.returncode == 1
            except subprocess.TimeoutExpired:
                dead = True
            file.write_text(text)
            killed += dead
            lived += [] if dead else [name]
            print(f"{'killed' if dead else 'SURVIVED':<8} {name}: {old[:70]!r} -> {new[:40]!r}", flush=True)
    print(f"{killed} of {len(chosen)} mutants killed, {killed / max(1, len(chosen)):.0%}")
    return 0 if killed >= 0.9 * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
