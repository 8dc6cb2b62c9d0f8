"""Print what becomes of hostile, damaged and old weight files: the fault table's rows about reading.

    python scripts/zoo_pickle_drill.py [--mutants 1000] [--composed 10000] [--seed 0] [--python OTHER ...]

Every file is opened with `open_checkpoint`, strictly and with `skip_objects`, and scanned, in child processes with
limits (10 seconds of the processor, 512 MiB). A hostile pickle counts as one that runs code only if Python's own
`pickle.load` makes its canary in the same run. Files that are composed of what is allowed are opened by everything that
this Python and the others have, torch perhaps. Exit code 1 if a row fails. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "checkpoints"))

import pickle_property  # noqa: E402
from pickle_drill import run  # noqa: E402


class Row(NamedTuple):
    fault: str
    required: str
    found: str
    passed: bool


def rows(mutants: int = 1000, composed: int = 10_000, seed: int = 0, pythons: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of the table, each when its files are through."""
    outcomes = list(run("hostile"))
    armed = [outcome for outcome in outcomes if outcome.get("proof")]
    executed = sum(outcome["canary"] for outcome in outcomes)
    refused = sum(outcome["read"].startswith("refused: ") for outcome in outcomes)
    unseen = sum(not outcome["scan"].startswith("refused: ") for outcome in armed)
    yield Row(
        f"{len(outcomes)} hostile files, {len(armed)} of which run code in pickle.load",
        "at least 60; 0 executions, crashes or hangs; all refused; scan sees every one that runs",
        f"{executed} executions, {_broken(outcomes)} crashes or hangs, {refused} refused, {unseen} unseen; "
        f"{_worst(outcomes)}",
        len(armed) >= 60 and not executed and not _broken(outcomes) and refused == len(outcomes) and not unseen,
    )
    found = pickle_property.run(composed, seed, [sys.executable, *pythons])
    opened = ", ".join(f"{kind} {count}" for kind, count in found["opened as data"].items())
    yield Row(
        f"{composed} files composed of allowed names, opcodes and memory",
        "what scan calls safe makes data and does nothing else, whoever opens it",
        f"{found['safe']} safe, {found['refused']} refused; opened as data: {opened}; {len(found['wrong'])} wrong",
        not found["wrong"] and found["safe"] > composed / 2,
    )
    outcomes = list(run("mutants", mutants, seed))
    arrays = sum(outcome["read"] == "arrays" for outcome in outcomes)
    refused = sum(outcome["read"].startswith("refused: ") for outcome in outcomes)
    yield Row(
        f"{len(outcomes)} mutated good files",
        "sound arrays or one clear error; 0 crashes or hangs",
        f"{arrays} gave arrays, {refused} were refused, {_broken(outcomes)} crashes or hangs; {_worst(outcomes)}",
        arrays + refused == len(outcomes) == mutants and not _broken(outcomes),
    )
    outcomes = list(run("good"))
    arrays = sum(outcome["read"] == "arrays" and outcome["scan"] == "safe" for outcome in outcomes)
    yield Row(
        f"{len(outcomes)} good files: paddle 1.8 to 3.3, torch 1.0 to 2.13, protocols 0 to 5, safetensors",
        "all load, and scan calls them safe",
        f"{arrays} load and are safe",
        arrays == len(outcomes) >= 60,
    )


def _broken(outcomes: list[dict[str, Any]]) -> int:
    """How many ended in anything but an answer: those begin with a capital."""
    return sum(outcome["read"][0].isupper() or outcome["scan"][0].isupper() for outcome in outcomes)


def _worst(outcomes: list[dict[str, Any]]) -> str:
    seconds, memory = (max(outcome[key] for outcome in outcomes) for key in ("seconds", "peak_mb"))
    return f"at most {seconds:.1f} s and {memory:.0f} MB each"


def table(mutants: int, composed: int, seed: int, pythons: Sequence[str] = ()) -> bool:
    """Print it; whether every row passed."""
    passed = True
    print("| fault | must be | was | |\n|---|---|---|---|", flush=True)
    for row in rows(mutants, composed, seed, pythons):
        print(f"| {row.fault} | {row.required} | {row.found} | {'pass' if row.passed else 'FAIL'} |", flush=True)
        passed = passed and row.passed
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--composed", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", nargs="*", default=[], help="other Pythons that open what is composed, too")
    options = parser.parse_args()
    return 0 if table(options.mutants, options.composed, options.seed, options.python) else 1


if __name__ == "__main__":
    sys.exit(main())
