"""Whether the files of a model are what they should be, here and at their source; and their repair."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from model_zoo import cache, digests, settings
from model_zoo.digests import Source
from model_zoo.disk import reading
from model_zoo.downloads import download, mirrors
from model_zoo.errors import CacheError, DownloadError, NotCachedError, SettingsError, scrub
from model_zoo.manifest import File
from model_zoo.registry import find
from model_zoo.settings import PathLike


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is to be said of one file.

    Attributes:
        path: relative to the model's folder.
        verdict: `ok` where the sha256 of the catalogue says so; `wrong` where the file is missing or damaged; `changed`
            where it is right and its source has another one now; `unknown` where nobody knows what it should be, or
            its source could not be asked.
        message: what was compared, or what is wrong.
    """

    path: str
    verdict: str
    message: str

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    @property
    def bad(self) -> bool:
        return self.verdict in ("wrong", "changed")


def verify(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    endpoint: str | None = None,
    remote: bool = False,
    repair: bool = False,
) -> list[Finding]:
    """Read every file of a model again and compare it with the catalogue, or else with its first download.

    A file that is found wrong is noted, so that the next download fetches it, and it alone.

    Args:
        name: name or alias of a model.
        revision: one of the model's revisions.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.
        endpoint: base addresses, instead of MODEL_ZOO_ENDPOINT.
        remote: also ask where the files come from whether they have changed there; no file is downloaded for it.
        repair: fetch files that are wrong, and look again.

    Returns:
        A finding for each file, in the order of the catalogue.

    Raises:
        UnknownModelError: no such model.
        NotCachedError: none of its files is here.
        SettingsError: `remote` or `repair`, and MODEL_ZOO_OFFLINE forbids the network.
        CacheError: a file cannot be read.
        DownloadError: a repair failed.
    """
    model = find(name, revision=revision)
    folder = model.folder or cache.model_folder(model, cache_dir)
    if not any((folder / file.path).is_file() for file in model.files):
        raise NotCachedError(f"no file of {model.name} is in {folder}; run `model-zoo download {model.name}`")
    if (remote or repair) and settings.offline():
        raise SettingsError("MODEL_ZOO_OFFLINE keeps the network closed; unset it to compare with the source")
    found = [_check(folder, file) for file in model.files]
    wrong = [finding.path for finding in found if finding.verdict == "wrong"]
    if wrong and model.folder is None:
        with contextlib.suppress(CacheError):  # somebody else's cache
            cache.doubt(folder, model, wrong)
        if repair:
            download(name, revision=revision, cache_dir=cache_dir, endpoint=endpoint, include=wrong, progress=None)
            return verify(name, revision=revision, cache_dir=cache_dir, endpoint=endpoint, remote=remote)
    if remote and model.folder is None:
        from model_zoo import http  # only this needs all that it imports
        from model_zoo.transfer import look

        endpoints, _ = mirrors(model, endpoint)
        recorded = cache.records(folder, model.files)
        with contextlib.closing(http.Client(http.POLICY)) as client:
            for index, (file, finding) in enumerate(zip(model.files, found)):
                if finding.verdict != "wrong":
                    then = recorded[file.path].source if file.path in recorded else None
                    try:
                        now = look(client, endpoints, model, file, then.endpoint if then else "")
                    except DownloadError as error:
                        message = f"{finding.message}; its source is unknown: {error}"
                        found[index] = Finding(file.path, "unknown", message)
                    else:
                        found[index] = _compare(folder, finding, now, then)
    return found


def _check(folder: Path, file: File) -> Finding:
    """Compare a file with what the catalogue and the records say."""
    path = folder / file.path
    recorded = cache.records(folder, [file]).get(file.path)
    if not path.is_file():
        return Finding(file.path, "wrong", "missing")
    with reading(path):
        size = path.stat().st_size
        sha256 = cache.hash_file(path)
    known = recorded if file.sha256 is None else file
    if file.wrong_size(size) or (known is not None and known.size not in (None, size)):
        expected = recorded.size if recorded and file.size is None else file.nominal_size
        return Finding(file.path, "wrong", f"damaged: {size} bytes instead of {expected}")
    if known is None:
        return Finding(file.path, "unknown", "no sha256 of it is known, and none was recorded")
    if known.sha256 != sha256:
        return Finding(file.path, "wrong", f"damaged: the sha256 {sha256} instead of {known.sha256}")
    if known is file:
        return Finding(file.path, "ok", "right, as in the catalogue")
    return Finding(file.path, "unknown", "as when it was first downloaded; nobody's sha256 vouches for it")


def _compare(folder: Path, finding: Finding, now: Source, then: Source | None) -> Finding:
    """A file that is as it should be here, with what its source says `now`."""
    path = folder / finding.path
    with reading(path):
        names = {*now.digests, *(["md5"] if now.etag_md5 else [])}
        found = digests.of_file(path, names) if names else {}
        size = path.stat().st_size
    same = now.etag_md5 is not None and now.etag_md5 == found["md5"]
    change = None if same else Source(now.endpoint, size, digests=found).change(now)
    if change is None and not same and then is not None and not now.digests:
        change = then.change(now)
    if change is not None:
        message = f"{finding.message}; changed at its source: {scrub(change)}"
        return Finding(finding.path, "changed", message)
    certain = same or now.digests or (then and then.endpoint == now.endpoint and (then.etag or then.date))
    message = f"{finding.message}; {'unchanged' if certain else 'of the same length'} at its source"
    return Finding(finding.path, finding.verdict, message)
