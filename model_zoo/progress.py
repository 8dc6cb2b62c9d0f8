"""What a user sees of a download: a bar with rate and remaining time on a terminal, and otherwise only what matters."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType

from model_zoo.registry import File

_LOG = logging.getLogger("model_zoo")


class Progress:
    """The bar of one model, for several threads. Use it in a `with` statement.

    Args:
        name: of the model.
        files: those to come; what is known of their sizes makes the total, until servers know better.
        shown: whether there is a bar; None shows it where stderr is a terminal.
    """

    def __init__(self, name: str, files: Iterable[File], shown: bool | None):
        from tqdm import tqdm  # type: ignore[import-untyped]  # here, since only a download needs it

        self._lengths = {file.path: file.nominal_size or 0 for file in files}
        self._lock = threading.Lock()
        self.shown = sys.stderr is not None and sys.stderr.isatty() if shown is None else shown
        total = sum(self._lengths.values())
        self._bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=not self.shown)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._bar.close()

    def gained(self, count: int) -> None:
        """So many bytes came; negative if they must come again."""
        with self._lock:
            self._bar.update(count)

    def adopted(self, count: int) -> None:
        """So many bytes need not come: they count for the bar, and not for its rate."""
        with self._lock:
            if self.shown:
                self._bar.initial += count
                self._bar.update(count)

    def length(self, path: str, length: int) -> None:
        """A file has turned out to have this length."""
        with self._lock:
            if self.shown:
                self._bar.total += length - self._lengths.get(path, 0)
                self._lengths[path] = length
                self._bar.refresh()

    def say(self, text: str) -> None:
        """Tell the user something that cannot wait."""
        with self._lock:
            if self.shown:
                self._bar.write(text, file=sys.stderr)
            else:
                _LOG.warning("%s", text)

    def note(self, text: str) -> None:
        """Tell the user something that is good to know."""
        if self.shown:
            self.say(text)
        else:
            _LOG.info("%s", text)
