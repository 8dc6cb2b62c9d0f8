"""Faults of the network and of servers."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import ssl
import subprocess
import zlib
from collections.abc import Callable
from typing import Any

from fake_community import CommunityServer

from zoo_drill.place import BLOCK, CONFIG, NAME, WEIGHTS, Place, Row

Prepare = Callable[[Place, random.Random], float]
"""Sets up a fault; returns how many bytes more than the file must then be transferred, whoever downloads."""


def cut(place: Place, rng: random.Random, **then: Any) -> int:
    """The connection breaks at a random point, and then something else is wrong."""
    point = rng.randrange(1, len(place.weights) - 1)
    place.server.fail(path=WEIGHTS, cut_after=point, times=1)
    if then:
        place.server.fail(path=WEIGHTS, **{"times": 1, **then})
    return point


def cuts(place: Place, rng: random.Random) -> float:
    for _ in range(rng.randrange(1, 6)):
        place.server.fail(path=WEIGHTS, cut_after=rng.randrange(len(place.weights) // 3), times=1)
    return 0


def stall(place: Place, rng: random.Random) -> float:
    place.server.fail(path=WEIGHTS, stall=3.0, stall_at=rng.randrange(len(place.weights)), times=rng.randrange(1, 3))
    return 0


def drip(place: Place, rng: random.Random) -> float:
    place.server.fail(path=WEIGHTS, drip=0.003, drip_bytes=rng.randrange(10_000, 50_000))
    return 0


def status(code: int, retry_after: str | None = None) -> Prepare:
    def prepare(place: Place, rng: random.Random) -> float:
        headers = {"Retry-After": retry_after} if retry_after else {}
        cut(place, rng, status=code, headers=headers, times=rng.randrange(1, 4 if retry_after is None else 2))
        return 0

    return prepare


def wrong_length(place: Place, rng: random.Random) -> float:
    lie = rng.choice((-1, 1)) * rng.randrange(1, len(place.weights) // 2)
    place.server.fail(path=WEIGHTS, length_lie=lie, times=rng.choice((1, None)))
    return 0


def wrong_range(place: Place, rng: random.Random) -> float:
    """Other bytes than those that were asked for, or the right ones under a wrong name."""
    point = cut(place, rng)
    lies = ("bytes 0-5/7", "bytes */7", "bytes", "", f"bytes {point}-{point + 5}/{2**70}", "bytes ٣-٤/٥", "pages 1-2/3")
    shift = max(rng.choice((-1, 1)) * rng.randrange(1, 1000), 1 - point)
    lie: dict[str, Any] = rng.choice(({"range_shift": shift}, {"content_range": rng.choice(lies)}))
    place.server.fail(path=WEIGHTS, cut_after=rng.randrange(1000, 5000), times=1, **lie)
    return 0


def range_ignored(place: Place, rng: random.Random) -> float:
    return cut(place, rng, ignore_range=True)


def changed(place: Place, rng: random.Random) -> float:
    """The publisher uploads another version while the first is on its way."""
    point, known = rng.randrange(1, len(place.weights) - 1), rng.random() < 0.5

    def republish() -> None:
        place.publish(random.Random(point), hashes=known)

    place.server.fail(path=WEIGHTS, cut_after=point, times=1, then=republish)
    return point + len(place.contents[CONFIG])


def corrupt(place: Place, rng: random.Random) -> float:
    """A byte is damaged on the way, and the manifest, the ETag or the store's CRC can tell."""
    fields: dict[str, Any] = rng.choice(
        (
            {"etag": f'"{hashlib.md5(place.weights).hexdigest()}"'},
            {"headers": {"x-bce-content-crc32": str(zlib.crc32(place.weights))}},
            {},
        )
    )
    place.describe(hashes=not fields)
    place.server.fail(path=WEIGHTS, corrupt_at=rng.randrange(len(place.weights)), times=1, **fields)
    if "etag" not in fields:
        return 0
    place.server.fail(path=WEIGHTS, **fields)  # not every ETag of this form is an MD5: the bytes must come twice
    return len(place.weights)


def extra(place: Place, rng: random.Random) -> float:
    place.server.fail(path=WEIGHTS, extra=rng.randrange(1, 100_000), times=rng.choice((1, None)))
    return 0


def compressed(place: Place, rng: random.Random) -> float:
    place.server.fail(path=WEIGHTS, encoding=rng.choice(("gzip", "br")), times=rng.choice((1, None)))
    return 0


def redirect(*targets: str) -> Prepare:
    def prepare(place: Place, rng: random.Random) -> float:
        cut(place, rng, redirect=rng.choice(targets).format(url=place.server.url), times=None)
        return 0

    return prepare


FAULTS: dict[str, Prepare] = {
    "connection cut, one to five times": cuts,
    "stall longer than the timeout": stall,
    "slow drip": drip,
    "500": status(500),
    "503": status(503),
    "429 with Retry-After": status(429, "1"),
    "wrong Content-Length": wrong_length,
    "wrong Content-Range": wrong_range,
    "Range ignored": range_ignored,
    "ETag changed half-way": changed,
    "corrupt byte": corrupt,
    "extra bytes": extra,
    "gzip-encoded answer": compressed,
    "redirect loop": redirect("{url}/" + f"{NAME}/{WEIGHTS}", WEIGHTS.rpartition("/")[2]),
    "redirect to another scheme": redirect("file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "gopher://x/"),
}


def fault(place: Place, row: Row, prepare: Prepare, runs: int) -> None:
    for number in range(runs):
        rng = random.Random(f"{row.name} {number}")
        place.reset()
        place.publish(rng, hashes=number % 2 == 0)
        needed = prepare(place, rng)
        outcome, remark = place.state(place.download())
        sent = place.server.bytes_sent
        hits = len(place.server.requests)
        if outcome != "wrong":  # without the fault, the same command must bring the file
            place.server.faults.clear()
            healed, why = place.state(place.download())
            if healed != "right":
                outcome, remark = "wrong", f"not mended by another try: {why}"
        allowed = (1.1 * place.total + needed + BLOCK * hits) / place.total
        row.count(outcome, sent / place.total, allowed, f"{number}: {sent:,} bytes; {remark}")


def https_to_http(place: Place, row: Row, runs: int) -> None:
    """A server with a certificate that the client trusts, and that sends it to one without."""
    key = place.root / "key.pem"
    made = shutil.which("openssl") and subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {key}.crt -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost,IP:127.0.0.1".split(),
        capture_output=True,
    )
    if not made or made.returncode:
        row.remarks.append("not run: it needs openssl")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{key}.crt", key)
    with CommunityServer(place.server.folder) as secure:
        secure._server.socket = context.wrap_socket(secure._server.socket, server_side=True)
        secure.url = secure.url.replace("http:", "https:")
        os.environ.update(REQUESTS_CA_BUNDLE=f"{key}.crt", MODEL_ZOO_ENDPOINT=secure.url)
        try:
            for number in range(runs):
                rng = random.Random(f"{row.name} {number}")
                place.reset()
                secure.forget()
                secure.fail(path=WEIGHTS, cut_after=rng.randrange(1, len(place.weights)), times=1)
                secure.fail(path=WEIGHTS, redirect=f"{place.server.url}/{NAME}/{WEIGHTS}?token=s3cret")
                outcome, remark = place.state(place.download())
                if outcome == "right" or place.server.requests or "s3cret" in remark:
                    outcome, remark = "wrong", f"it went there: {remark}"
                secure.faults.clear()
                if outcome == "absent" and place.state(place.download())[0] != "right":
                    outcome, remark = "wrong", "not mended by another try"
                row.count(outcome, secure.bytes_sent / place.total, 1.1, remark)
        finally:
            del os.environ["REQUESTS_CA_BUNDLE"]
            os.environ["MODEL_ZOO_ENDPOINT"] = place.server.url
