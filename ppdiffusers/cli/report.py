"""What a command says while it works through its pictures: results, failures, progress with the time that is left."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from typing import Any, Callable, List, Optional, Tuple

_REDRAW = 0.1  # seconds between two states of the line on a terminal
_SILENCE = 20.0  # seconds after which a line says that work goes on, where there is no terminal


def plain(text: str) -> str:
    """In one line, without anything that a terminal would obey: names of files and of servers are not ours."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


class Report:
    """One run of a command over `total` pictures. Results go to standard output, everything else to standard error.

    Args:
        args: `json`, `quiet`, `verbose`.
        piped: a picture goes to standard output, so that results are told on standard error.
    """

    def __init__(
        self, args: argparse.Namespace, total: int, piped: bool = False, clock: Callable[[], float] = time.monotonic
    ):
        self.json, self.quiet, self.verbose = args.json, args.quiet, args.verbose
        self.dry = args.dry_run
        self.total = total
        self.done = self.skipped = 0
        self.failures: List[Tuple[str, str]] = []
        self._out = sys.stderr if piped else sys.stdout
        self._clock = clock
        self._live = sys.stderr.isatty() and not self.quiet
        self._shown = ""  # on the terminal's last line
        self._begun: Optional[float] = None  # when the first picture was
        self._drawn = clock()
        self._work = self._worked = 0.0  # pixels: of all pictures that are left, and finished ones
        self._current = ("", 0.0)  # name and pixels of the picture at work

    # Progress

    def expect(self, pixels: float) -> None:
        """Work to come, in input pixels."""
        self._work += pixels

    def begin(self, name: str, pixels: float, what: str = "reading") -> None:
        if self._begun is None:
            self._begun = self._clock()
        self._current = (name, pixels)
        self.progress(0.0, what)

    def progress(self, share: float, what: str) -> None:
        """Of the picture at work: the share that is done, and what is being done."""
        now = self._clock()
        since = now - self._drawn
        if self.quiet or since < (_REDRAW if self._live else _SILENCE):
            return
        self._drawn = now
        name, pixels = self._current
        number = self.done + self.skipped + len(self.failures) + 1
        place = f"[{number}/{self.total}] " if self.total > 1 else ""
        left = self._left(share * pixels)
        line = plain(f"{place}{name}: {what}{f', {left} left' if left else ''}")
        if self._live:
            self._draw(line)
        else:
            print(f"ppdiffusers: {line}", file=sys.stderr, flush=True)

    def _left(self, current: float) -> str:
        worked = self._worked + current
        if self._begun is None or worked <= 0 or self._work <= 0:
            return ""
        seconds = (self._clock() - self._begun) / worked * max(self._work - worked, 0)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def _draw(self, line: str) -> None:
        import shutil

        line = line[: shutil.get_terminal_size().columns - 1]
        print("\r" + line + " " * (len(self._shown) - len(line)), end="\r", file=sys.stderr, flush=True)
        self._shown = line

    def _clear(self) -> None:
        if self._shown:
            self._draw("")
            self._shown = ""

    # Results

    def finished(self, text: str, **facts: Any) -> None:
        """A picture is written; `facts` are for `--json`."""
        self.done += 1
        self._worked += self._current[1]
        self._tell(text, status="done", **facts)

    def skip(self, name: str, target: str, pixels: float = 0.0) -> None:
        """A result was there."""
        self.skipped += 1
        self._tell(f"{target} exists, skipped" if self.verbose else "", status="skipped", input=name, output=target)

    def fail(self, name: str, error: BaseException, **facts: Any) -> None:
        """A picture could not be made; the others are."""
        message = plain(str(error)) or type(error).__name__
        self.failures.append((name, message))
        self._work -= self._current[1]
        self._clear()
        if self.json:
            self._tell("", status="failed", input=name, error=message, **facts)
        if self.total == 1:
            print(f"ppdiffusers: error: {message}", file=sys.stderr)
        else:
            print(f"ppdiffusers: failed: {message}", file=sys.stderr)
        if self.verbose:
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)

    def note(self, message: str, always: bool = False) -> None:
        """What a user may want to know; without `always` only with --verbose."""
        if always and not self.quiet or self.verbose:
            self._clear()
            print(f"ppdiffusers: {plain(message)}", file=sys.stderr)

    def _tell(self, text: str, **facts: Any) -> None:
        self._clear()
        if self.json:
            print(json.dumps(facts, ensure_ascii=False, default=str), file=self._out, flush=True)
        elif text and not self.quiet:
            print(plain(text), file=self._out, flush=True)

    def close(self) -> int:
        """Sum up; the exit code: 1 if a picture failed."""
        self._clear()
        if self.total > 1 and not self.quiet:
            done = "to do" if self.dry else "done"
            counts = ((self.done, done), (self.skipped, "there already (--overwrite makes them anew)"),
                      (len(self.failures), "failed"))  # fmt: skip
            said = [f"{count} {what}" for count, what in counts if count]
            print(f"ppdiffusers: {self.total} pictures: {', '.join(said)}", file=sys.stderr)
        if self.total > 1 and self.failures:
            print(f"ppdiffusers: failed: {plain(', '.join(name for name, _ in self.failures))}", file=sys.stderr)
        return 1 if self.failures else 0
