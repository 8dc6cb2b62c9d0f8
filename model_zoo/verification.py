"""Whether the files of a model are what they were, here and at their source."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo import cache, digests, settings
from model_zoo.addresses import scrub
from model_zoo.errors import DownloadError, NotCachedError, SettingsError
from model_zoo.registry import File, Model, find, local_folder
from model_zoo.settings import PathLike
from model_zoo.source import Source

if TYPE_CHECKING:
    from model_zoo.hub import Hub


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is to be said of one file.

    Attributes:
        path: relative to the model's folder.
        verdict: `ok`; `wrong` where the file here is missing or damaged; `changed` where it is right and its source has
            another one now; `unknown` where it is right and its source could not be asked.
        message: what was compared, or what is wrong.
    """

    path: str
    verdict: str
    message: str

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"


def verify(
    name: str, *, cache_dir: PathLike | None = None, endpoint: str | None = None, remote: bool = False
) -> list[Finding]:
    """Read every file of a model again and compare it with the catalogue, or else with its first download.

    Args:
        name: name or alias of a model.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.
        endpoint: base addresses, instead of MODEL_ZOO_ENDPOINT.
        remote: also ask where the files come from whether they have changed there; no file is downloaded.

    Returns:
        A finding for each file, in the order of the catalogue.

    Raises:
        UnknownModelError: no such model.
        NotCachedError: none of its files is here.
        SettingsError: `remote`, and MODEL_ZOO_OFFLINE forbids the network.
        CacheError: a file cannot be read.
    """
    model = find(name)
    local = local_folder(model)
    folder = cache.model_folder(model, cache_dir) if local is None else local
    if not any((folder / file.path).is_file() for file in model.files):
        raise NotCachedError(f"no file of {model.name} is in {folder}; run `model-zoo download {model.name}`")
    if not remote or local is not None:
        return [_check(folder, file, None) for file in model.files]
    if settings.offline():
        raise SettingsError("MODEL_ZOO_OFFLINE keeps the network closed; unset it to compare with the source")
    from model_zoo.hub import Hub  # only this needs all that it imports
    from model_zoo.zoo import mirrors

    endpoints, advice = mirrors(model, endpoint)
    with Hub(endpoints, advice, lambda text: None, threading.Event()) as hub:
        return [_check_with_source(hub, model, folder, file) for file in model.files]


def _check_with_source(hub: Hub, model: Model, folder: Path, file: File) -> Finding:
    recorded = cache.records(folder, [file]).get(file.path)
    then = recorded.source if recorded else None
    try:
        now = hub.look(model.name, file, then.endpoint if then else "")
    except DownloadError as error:
        found = _check(folder, file, None)
        verdict = "unknown" if found.ok else found.verdict
        return Finding(file.path, verdict, f"{found.message}; its source is unknown: {error}")
    return _check(folder, file, now, then)


def _check(folder: Path, file: File, now: Source | None, then: Source | None = None) -> Finding:
    """Compare a file with what the catalogue and the records say, and with what its source says `now`."""
    path = folder / file.path
    recorded = cache.records(folder, [file]).get(file.path)
    if not path.is_file():
        return Finding(file.path, "wrong", "missing")
    names = {"sha256", *(now.digests if now else ()), *(["md5"] if now and now.etag_md5 else [])}
    with cache.reading(path):
        size = path.stat().st_size
        found = digests.of_file(path, names)
    expected = file.sha256 or (recorded.sha256 if recorded else None)
    length = file.size if file.size is not None or recorded is None else recorded.size
    if length not in (None, size):
        return Finding(file.path, "wrong", f"damaged: {size} bytes instead of {length}")
    if expected not in (None, found["sha256"]):
        return Finding(file.path, "wrong", f"damaged: the sha256 {found['sha256']} instead of {expected}")
    if expected is None:
        message = "the right size; no hash of it is known" if length is not None else "there; nothing is known of it"
    else:
        message = "right, as in the catalogue" if file.sha256 else "right, as when it was first downloaded"
    if now is None:
        return Finding(file.path, "ok", message)
    same = now.etag_md5 is not None and now.etag_md5 == found["md5"]
    change = None if same else Source(now.endpoint, size, digests=found).change(now)
    if change is None and not same and then is not None and not now.digests:
        change = then.change(now)
    if change is not None:
        return Finding(file.path, "changed", f"{message}; changed at its source: {scrub(change)}")
    certain = same or now.digests or (then and then.endpoint == now.endpoint and (then.etag or then.date))
    return Finding(file.path, "ok", f"{message}; {'unchanged' if certain else 'of the same length'} at its source")
