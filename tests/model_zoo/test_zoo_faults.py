from __future__ import annotations

import pytest
from fake_community import CommunityServer
from zoo_files import NAME, WEIGHTS, assert_nothing_wrong, assert_right, files_in

import model_zoo
from model_zoo import http

# Faults that a later attempt gets over.
CURABLE = {
    "cut once": {"cut_after": 7000, "times": 1},
    "cut five times, more often than attempts in a row": {"cut_after": 3500, "times": 5},
    "cut before the first byte": {"cut_after": 0, "times": 2},
    "cut, then Range ignored": {"cut_after": 7000, "times": 1, "then": {"ignore_range": True, "times": 1}},
    "cut, then another place": {"cut_after": 7000, "times": 1, "then": {"range_shift": 500, "times": 1}},
    "cut, then another version": {"cut_after": 7000, "times": 1, "etag": '"old"'},
    "cut, then another version as if it were the same": {
        "cut_after": 7000,
        "times": 1,
        "etag": '"old"',
        "corrupt": True,
        "then": {"ignore_if_range": True, "times": 1},
    },
    "cut, and no validator": {"cut_after": 7000, "times": 1, "no_validator": True},
    "cut and no validator at all": {"cut_after": 7000, "times": 1, "then": {"no_validator": True, "times": 1}},
    "500": {"status": 500, "times": 2},
    "503": {"status": 503, "times": 1},
    "429": {"status": 429, "times": 1},
    "stall": {"stall": 1.0, "times": 1},
    "promises more than it sends": {"length_lie": 50, "times": 2},
}


@pytest.mark.parametrize("fault", CURABLE)
def test_curable_fault(fault, zoo, folder, contents):
    fields = dict(CURABLE[fault])
    then = fields.pop("then", None)
    zoo.fail(path=WEIGHTS, **fields)
    if then:
        zoo.fail(path=WEIGHTS, **then)
    model_zoo.download(NAME)
    assert_right(folder, contents)


@pytest.mark.parametrize("size", [None, 20_000])
def test_a_length_that_is_always_too_long(size, zoo, folder, contents, manifest, catalogue_of):
    """The 416 to the question for more says that there is no more: once is enough."""
    manifest["files"][3] = (
        {"path": WEIGHTS, "approximate_size": 20_300} if size is None else {"path": WEIGHTS, "size": 20_000}
    )
    catalogue_of(manifest)
    zoo.fail(path=WEIGHTS, length_lie=50)
    if size is not None:
        with pytest.raises(model_zoo.DownloadError, match="has 20,050 bytes, not 20,000"):
            model_zoo.download(NAME)
        return
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.paths().count(f"{NAME}/{WEIGHTS}") == 2


def test_a_cut_connection_is_continued(zoo, folder, contents):
    zoo.fail(path=WEIGHTS, cut_after=7000, times=2)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    asked = [request.headers for request in zoo.requests if request.path.endswith(WEIGHTS)]
    assert [headers.get("Range") for headers in asked] == [None, "bytes=7000-", "bytes=14000-"]
    assert asked[1]["If-Range"] == asked[2]["If-Range"]
    assert zoo.bytes_sent == sum(map(len, contents.values()))


def test_the_same_bytes_again_are_no_progress(zoo, folder, contents):
    for _ in range(10):
        zoo.fail(path=WEIGHTS, ignore_range=True, cut_after=7000, times=1)
        zoo.fail(path=WEIGHTS, ignore_range=True, cut_after=3000, times=1)
    with pytest.raises(model_zoo.DownloadError):
        model_zoo.download(NAME)
    assert zoo.paths().count(f"{NAME}/{WEIGHTS}") == 3
    assert_nothing_wrong(folder, contents)


# Faults that stay: the message, and how often the file is asked for.
INCURABLE = {
    "404": ({"status": 404}, r"does not exist \(HTTP 404", 1),
    "403": ({"status": 403}, r"was refused \(HTTP 403", 1),
    "500": ({"status": 500}, r"HTTP 500", 3),
    "always cut at one place": ({"cut_after": 7000, "ignore_range": True}, "7000 of 20000|IncompleteRead", 3),
    "always another place": ({"cut_after": 700, "range_shift": 1}, "at another place", 3),
    "no length": ({"no_length": True}, "comes without a length", 1),
    "compressed": ({"encoding": "gzip"}, "was sent as gzip", 1),
    "stalls": ({"stall": 1.0}, "timed out", 3),
    "redirected in circles": ({"redirect": "model_state.pdparams"}, "in circles", 6),
    "redirected to a file": ({"redirect": "file:///etc/hostname"}, "which is no address: refused", 1),
}


@pytest.mark.parametrize("fault", INCURABLE)
def test_incurable_fault(fault, zoo, folder, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    fields, message, asked = INCURABLE[fault]
    zoo.fail(path=WEIGHTS, **fields)
    with pytest.raises(model_zoo.DownloadError, match=message) as caught:
        model_zoo.download(NAME)
    assert f"{zoo.url}/{NAME}/{WEIGHTS}" in str(caught.value)
    assert "MODEL_ZOO_ENDPOINT" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_nothing_wrong(folder, contents)
    assert {*contents} - {WEIGHTS} <= files_in(folder)  # it came last, and what was had stays
    assert zoo.paths().count(f"{NAME}/{WEIGHTS}") == asked
    zoo.faults.clear()
    zoo.requests.clear()
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert set(zoo.paths()) == {f"{NAME}/{WEIGHTS}"}


def test_corrupt_bytes_against_a_known_hash(zoo, folder, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    zoo.fail(path="unet/config.json", corrupt=True, times=1)
    with pytest.raises(model_zoo.DownloadError, match=r"unet/config\.json has the sha256"):
        model_zoo.download(NAME)
    assert not [path for path in files_in(folder) if "config" in path]  # of the corrupt one not even a part
    model_zoo.download(NAME)
    assert_right(folder, contents)


@pytest.mark.parametrize(
    ("size", "fault", "message"),
    [
        (255, {}, "has 255 bytes, not 256"),
        (257, {}, "has 257 bytes, not 256"),
        (256, {"length_lie": -6}, "has 250 bytes, not 256"),
        (300, {"no_length": True}, "more than the promised 256 bytes"),
        (256, {"no_length": True, "extra": 3_000_000}, "more than the promised 256 bytes"),
    ],
)
def test_another_size_than_catalogued(size, fault, message, zoo, folder):
    (zoo.folder / NAME / "model_index.json").write_bytes(bytes(size))
    zoo.fail(path="model_index.json", **fault)
    with pytest.raises(model_zoo.DownloadError, match=rf"model_index\.json .*{message}"):
        model_zoo.download(NAME)
    assert not [path for path in files_in(folder) if "model_index" in path]


def test_no_length_does_when_the_catalogue_knows_the_size(zoo, folder, contents):
    zoo.fail(path="config.json", no_length=True)
    zoo.fail(path="model_index.json", no_length=True, cut_after=100, times=1)
    zoo.fail(path="model_index.json", no_length=True)
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_no_way_from_https_to_http():
    """The drill plays it with a server that has a certificate."""
    target = "http://b.example/x?token=secret"
    with pytest.raises(model_zoo.DownloadError, match="which is not https") as caught:
        http._redirected("https://a.example/y", target)
    assert "secret" not in str(caught.value)
    assert http._redirected("http://a.example/y", target) == target
    assert http._redirected("https://a.example/y", "/z") == "https://a.example/z"


@pytest.mark.parametrize(
    "target", ["http://x:0/", "data:,x", "ftp://a/x", "javascript:x", "http://[v1.x]/", "http://a..b/"]
)
def test_redirects_to_nonsense(target, zoo, folder, contents):
    """The next mirror is asked; the drill's answers have more of them."""
    zoo.fail(path=WEIGHTS, redirect=target)
    with CommunityServer(zoo.folder) as mirror:
        model_zoo.download(NAME, endpoint=f"{zoo.url} {mirror.url}")
    assert_right(folder, contents)
    assert f"{NAME}/{WEIGHTS}" in mirror.paths()


def test_redirect_to_another_place_is_followed(zoo, folder, contents):
    (zoo.folder / "mirror").mkdir()
    (zoo.folder / "mirror" / "w").write_bytes(contents[WEIGHTS])
    zoo.fail(path=WEIGHTS, redirect=f"{zoo.url}/mirror/w")
    zoo.fail(path="mirror/w", cut_after=7000, times=1)
    model_zoo.download(NAME)
    assert_right(folder, contents)
