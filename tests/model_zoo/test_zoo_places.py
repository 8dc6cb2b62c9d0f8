from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import warnings

import pytest
from fake_community import CommunityServer
from zoo_files import ALIAS, NAME

import model_zoo
from model_zoo import cache, registry, settings


@pytest.fixture
def web(tmp_path):
    (tmp_path / "web").mkdir()
    with CommunityServer(tmp_path / "web") as server:
        yield server


@pytest.fixture
def entry(manifest):
    """A manifest of another owner, with no name in common with the small model."""
    return {**manifest, "name": "friend/tiny", "aliases": ["friend/old"]}


@pytest.fixture
def use(monkeypatch):
    def use(*places):
        monkeypatch.setenv("MODEL_ZOO_REGISTRY", os.pathsep.join(map(str, places)))

    return use


def write(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return file


@pytest.mark.skipif(os.pathsep != ":", reason="the separator of POSIX")
@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", []),
        ("/a", ["/a"]),
        ("/a:/b c/d", ["/a", "/b c/d"]),
        ("/a:/b:/a", ["/a", "/b"]),
        ("./a,~/b\n../c", ["./a", "~/b", "../c"]),
        ("https://a.example/zoo/index.json", ["https://a.example/zoo/index.json"]),
        ("http://a.example:8080/zoo/i.json:/b", ["http://a.example:8080/zoo/i.json", "/b"]),
        ("/b:http://a.example:80/:https://c.example/?k=1", ["/b", "http://a.example:80/", "https://c.example/?k=1"]),
        ("https://a.example/x https://b.example/y", ["https://a.example/x", "https://b.example/y"]),
        ("https://[::1]:80/x:/b", ["https://[::1]:80/x", "/b"]),
        (" /a : /b , ", ["/a", "/b"]),
        ("ftp://a.example/x", ["ftp://a.example/x"]),
    ],
)
def test_setting(text, places, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", text)
    assert [place.place for place in settings.registries()] == places
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", ",".join(f"override={place}" for place in places))
    assert settings.registries() == [(place, True) for place in places]


def test_setting_on_windows(monkeypatch):
    monkeypatch.setattr(os, "pathsep", ";")
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", r"C:\zoo;https://a.example:80/x:y;override=D:\b")
    assert settings.registries() == [(r"C:\zoo", False), ("https://a.example:80/x:y", False), (r"D:\b", True)]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/nowhere/at/all", "passed over in /nowhere/at/all: it does not exist"),
        ("ftp://a.example/x", "'ftp://a.example/x', which is no http"),
        ("https://user:secret@a.example/x", "'https://a.example/x', which is no http or https address without user"),
        ("https://a.example:99999/x", "which is no http"),
        ("http:///x", "which is no http"),
    ],
)
def test_places_that_are_none(place, message, use, catalogue_of, manifest):
    """They are warned of, and everything else goes on."""
    catalogue_of(manifest)
    use(place)
    with pytest.warns(UserWarning, match=message) as caught:
        assert [model.name for model in model_zoo.list_models()] == [NAME]
    assert "MODEL_ZOO_REGISTRY" in str(caught[0].message) and "secret" not in str(caught[0].message)
    assert model_zoo.find(NAME).name == NAME


def test_folder(tmp_path, catalogue_of, manifest, entry, use):
    catalogue_of(manifest)
    write(tmp_path / "mine/friend/tiny.json", entry)
    use(tmp_path / "mine")
    assert [model.name for model in model_zoo.list_models()] == ["friend/tiny", NAME]
    model = model_zoo.find("friend/old")
    assert (model.name, model.registry, model.folder) == ("friend/tiny", str(tmp_path / "mine"), None)
    assert model_zoo.find(ALIAS).registry is None
    with pytest.raises(model_zoo.UnknownModelError, match="friend/tiny"):
        model_zoo.find("friend/tinny")


@pytest.mark.parametrize("form", ["index", "manifest", "manifest in its own place"])
def test_file(form, tmp_path, catalogue_of, entry, use):
    catalogue_of()
    file = {"index": "index.json", "manifest": "any.json", "manifest in its own place": "friend/tiny.json"}[form]
    write(tmp_path / "mine" / file, {"models": [entry]} if form == "index" else entry)
    (tmp_path / "mine/friend/tiny/unet").mkdir(parents=True)
    use(tmp_path / "mine" / file)
    model = model_zoo.find("friend/tiny")
    assert model.folder == tmp_path / "mine/friend/tiny"


def test_files_beside_a_manifest_are_used_where_they_lie(tmp_path, catalogue_of, entry, contents, use):
    catalogue_of()
    write(tmp_path / "mine/friend/tiny.json", entry)
    place = tmp_path / "mine/friend/tiny"
    for path, content in contents.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    use(tmp_path / "mine")
    assert model_zoo.download("friend/tiny", local_files_only=True) == place
    os.truncate(place / "model_index.json", 200)
    with pytest.raises(model_zoo.CacheError, match=r"model_index\.json is missing or not as"):
        model_zoo.download("friend/tiny", local_files_only=True)


BROKEN = {
    "no licence": {"licence": None},
    "huge size": {"files": [{"path": "a", "size": 10**400}]},
    "a path that leaves": {"files": [{"path": "../x"}]},
    "a later schema": {"schema": 2},
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("form", ["folder", "index", "address"])
def test_a_broken_entry_is_passed_over(broken, form, tmp_path, catalogue_of, manifest, entry, use, web):
    """The rest of its place, and every other place, are as they were; only who asks for it is told why."""
    catalogue_of(manifest)
    bad = {**entry, "name": "friend/bad", "aliases": [], **BROKEN[broken]}
    for values in (entry, bad):
        write(tmp_path / "mine" / f"{values['name']}.json", values)
    write(tmp_path / "index.json", {"models": [bad, entry]})
    write(web.folder / "index.json", {"models": [entry, bad]})
    use({"folder": tmp_path / "mine", "index": tmp_path / "index.json", "address": f"{web.url}/index.json"}[form])
    for _ in range(2):  # read anew, and from the copy
        with pytest.warns(UserWarning, match="passed over") as caught:
            assert [model.name for model in model_zoo.list_models()] == ["friend/tiny", NAME]
        assert len(caught) == 1 and len(str(caught[0].message)) < 600
    assert model_zoo.find("friend/old").name == "friend/tiny" and model_zoo.find(NAME).name == NAME
    with pytest.raises(model_zoo.ModelZooError):
        model_zoo.find("friend/bad")


def test_unknown_keys_are_kept(tmp_path, catalogue_of, manifest, entry, use):
    """Those of a later release that does not change what the older ones mean."""
    catalogue_of(manifest)
    write(tmp_path / "mine/friend/tiny.json", {**entry, "colour": "red", "files": [{"path": "a", "codec": 1}]})
    use(tmp_path / "mine")
    assert model_zoo.find("friend/tiny").files[0].path == "a"


@pytest.mark.parametrize("form", ["address", "index"])
def test_many_models(form, catalogue_of, manifest, entry, use, web, monkeypatch):
    """10,000, 5 % broken: one warning, and a name is found without reading them all."""
    catalogue_of(manifest)
    entries = [{**entry, "name": f"friend/m{i}", "aliases": [f"old/m{i}"]} for i in range(10_000)]
    for i in range(0, 10_000, 20):
        entries[i]["files"] = [{"path": "../x"}]
    file = write(web.folder / "index.json", {"models": entries})
    use(f"{web.url}/index.json" if form == "address" else file)
    with pytest.warns(UserWarning, match="500 of its entries are passed over") as caught:
        assert len(model_zoo.list_models()) == 9501
    assert len(caught) == 1
    parsed = []
    parse = registry.parse
    monkeypatch.setattr(registry, "parse", lambda values: parsed.append(1) or parse(values))
    assert model_zoo.find("friend/m9999").name == model_zoo.find("old/m9999").name == "friend/m9999"
    assert len(parsed) == 2
    if form == "index":  # and once it is another file
        write(file, {"models": [{**entry, "name": "friend/m9999", "task": "newer"}]})
        assert model_zoo.find("friend/m9999").task == "newer"
        file.unlink()
        with pytest.raises(model_zoo.UnknownModelError):
            model_zoo.find("friend/m9999")


def test_more_files_than_a_model_has(catalogue_of, manifest):
    catalogue_of({**manifest, "files": [{"path": f"f{i}"} for i in range(100_000)]})
    with pytest.warns(UserWarning, match="lists 100,000 files"):
        assert model_zoo.list_models() == []


@pytest.mark.parametrize(
    "claim",
    [{"name": NAME, "aliases": []}, {"name": ALIAS, "aliases": []}, {"aliases": [NAME]}, {"aliases": ["Tester/SMALL"]}],
    ids=str,
)
@pytest.mark.parametrize("form", ["folder", "address"])
def test_no_place_redefines_a_name_silently(form, claim, tmp_path, catalogue_of, manifest, entry, use, web):
    catalogue_of(manifest)
    entry = {**entry, **claim}
    use(tmp_path / "mine" if form == "folder" else f"{web.url}/index.json")
    write(tmp_path / "mine" / f"{entry['name']}.json", entry)
    write(web.folder / "index.json", {"models": [entry]})
    with pytest.warns(UserWarning, match="both claim the name") as caught:
        assert [model.name for model in model_zoo.list_models()] == [NAME]
    message = str(caught[0].message)
    assert NAME in message and entry["name"] in message and "override=" in message
    assert (str(tmp_path / "mine") if form == "folder" else f"{web.url}/index.json") in message
    assert model_zoo.find(NAME).registry is None and model_zoo.find(ALIAS).registry is None
    if entry["name"] not in (NAME, ALIAS):  # nor is it found by what is its own
        with pytest.raises(model_zoo.UnknownModelError):
            model_zoo.find(entry["name"])


def test_an_entry_that_has_a_name_of_ours_is_not_found_by_its_alias(tmp_path, catalogue_of, manifest, entry, use):
    """Its files would mix with those of ours."""
    catalogue_of(manifest)
    write(tmp_path / "index.json", {"models": [{**entry, "name": NAME}]})
    use(tmp_path / "index.json")
    with pytest.raises(model_zoo.UnknownModelError):
        model_zoo.find("friend/old")


def test_two_places_that_clash(tmp_path, catalogue_of, entry, use):
    """The first wins, but for the one that may."""
    catalogue_of()
    write(tmp_path / "a/friend/tiny.json", entry)
    write(tmp_path / "b/friend/tiny.json", entry)
    for form in ("{}", "override={}"):
        use(form.format(tmp_path / "a"), form.format(tmp_path / "b"))
        assert model_zoo.find("friend/tiny").registry == str(tmp_path / "a")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [model.registry for model in model_zoo.list_models()] == [str(tmp_path / "a")]
        assert form != "{}" or "both claim the name friend/" in str(caught[0].message)
    use(tmp_path / "a", f"override={tmp_path / 'b'}")
    assert model_zoo.find("friend/tiny").registry == str(tmp_path / "b")


def test_override(tmp_path, catalogue_of, manifest, entry, use):
    """It wins, its files get a place of their own in the cache, and no alias of the model it replaces leads to it."""
    catalogue_of(manifest)
    write(tmp_path / "mine/tester/small.json", {**entry, "name": NAME, "task": "other", "aliases": []})
    before = cache.model_folder(model_zoo.find(NAME))
    use(f"override={tmp_path / 'mine'}")
    model = model_zoo.find(NAME)
    assert model.task == "other"
    after = cache.model_folder(model)
    assert after.parent == before.parent and after != before and after.name.startswith("small@")
    with pytest.raises(model_zoo.UnknownModelError):
        model_zoo.find(ALIAS)
    assert [model.task for model in model_zoo.list_models()] == ["other"]


def test_override_of_an_alias_leaves_the_model(tmp_path, catalogue_of, manifest, entry, use):
    catalogue_of(manifest)
    write(tmp_path / "mine/friend/tiny.json", {**entry, "aliases": [ALIAS]})
    use(f"override={tmp_path / 'mine'}")
    assert model_zoo.find(ALIAS).name == "friend/tiny"
    assert model_zoo.find(NAME).name == NAME


def test_index_at_an_address(catalogue_of, manifest, entry, use, web):
    catalogue_of(manifest)
    write(web.folder / "zoo/index.json", {"models": [entry]})
    use(f"{web.url}/zoo/index.json?token=secret")
    model = model_zoo.find("friend/old")
    assert (model.name, model.registry) == ("friend/tiny", f"{web.url}/zoo/index.json")
    assert model.base_url == f"{web.url}/zoo"
    assert web.paths() == ["zoo/index.json?token=secret"]
    assert [model.name for model in model_zoo.list_models()] == ["friend/tiny", NAME]
    assert len(web.requests) == 1


def test_manifest_at_an_address(catalogue_of, entry, use, web):
    catalogue_of()
    write(web.folder / "zoo/friend/tiny.json", entry)
    write(
        web.folder / "zoo/any.json", {**entry, "base_url": "https://bucket.example/x/", "mirrors": ["http://b.example"]}
    )
    use(f"{web.url}/zoo/friend/tiny.json")
    assert model_zoo.find("friend/tiny").base_url == f"{web.url}/zoo"
    use(f"{web.url}/zoo/any.json")
    model = model_zoo.find("friend/tiny")  # without the slash at the end
    assert (model.base_url, model.mirrors) == ("https://bucket.example/x", ("http://b.example",))


def test_https_registry_cannot_lead_to_http(entry):
    def at(url, values):
        return registry._Copy(url, False).finish(registry.parse(values))

    good = {**entry, "base_url": "https://b.example", "mirrors": ["https://c.example"]}
    assert at("https://a.example/index.json", good).base_url == "https://b.example"
    for change in ({"base_url": "http://b.example"}, {"mirrors": ["http://c.example"]}):
        with pytest.raises(model_zoo.ManifestError, match="from https to http"):
            at("https://a.example/index.json", {**good, **change})
    assert at("https://a.example/z/friend/tiny.json?k=1", entry).base_url == "https://a.example/z"


@pytest.fixture
def known(catalogue_of, manifest, entry, use, web):
    """A registry at an address that has been read once."""
    catalogue_of(manifest)
    write(web.folder / "index.json", {"models": [entry]})
    use(f"{web.url}/index.json")
    model_zoo.find("friend/tiny")
    web.forget()
    return web


def test_a_copy_answers_without_the_network(known, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a socket was opened"))
    assert model_zoo.find("friend/old").name == "friend/tiny"
    assert model_zoo.find(NAME).name == NAME
    assert len(model_zoo.list_models()) == 2
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    monkeypatch.setattr(registry, "FRESH", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(model_zoo.list_models()) == 2


def test_a_name_that_the_copy_does_not_have_is_asked_for(known, entry):
    write(known.folder / "index.json", {"models": [entry, {**entry, "name": "friend/new", "aliases": []}]})
    assert model_zoo.find("friend/new").name == "friend/new"
    assert len(known.requests) == 1


def test_revalidation(known, entry, monkeypatch):
    monkeypatch.setattr(registry, "FRESH", 0.0)
    assert len(model_zoo.list_models()) == 2
    assert [request.headers.get("If-None-Match") for request in known.requests] == [known.etag("index.json")]
    assert known.statuses == [304]
    write(known.folder / "index.json", {"models": [{**entry, "task": "newer"}]})
    assert model_zoo.find("friend/tiny").task == "super-resolution"
    assert model_zoo.find("friend/tiny", refresh=True).task == "newer"
    assert model_zoo.find("friend/tiny").task == "newer"


INVALID = {
    "an error page": (200, {}, b"<html>login</html>"),
    "another JSON": (200, {}, b"[1]"),
    "an index of a later schema": (200, {}, b'{"models": [], "schema": 2}'),
    "models that are no list": (200, {}, b'{"models": {}}'),
    "a path that leaves": (200, {}, b'{"name": "a/b", "files": [{"path": "../x"}]}'),
    "two lengths": (200, {"Content-Length": "3, 4"}, b"{}"),
    "deep nesting": (200, {}, b"[" * 100_000),
    "no text": (200, {}, b"\xff\xfe"),
    "404": (404, {}, b""),
    "500": (500, {}, b""),
    "304 unasked": (304, {}, b""),
    "compressed": (200, {"Content-Encoding": "gzip"}, b"x"),
    "redirected in circles": (302, {"Location": "index.json"}, b""),
    "redirected to a file": (302, {"Location": "file:///etc/hostname"}, b""),
    "too long": (200, {}, b'{"models": []}' + b" " * registry.LARGEST),
    "cut": (200, {"Content-Length": "9999"}, b'{"models": []}'),
}


@pytest.mark.parametrize("answer", INVALID)
@pytest.mark.parametrize("before", [True, False], ids=["with a copy", "without"])
def test_answers_that_are_no_registry(answer, before, catalogue_of, manifest, entry, use, web, monkeypatch):
    catalogue_of(manifest)
    write(web.folder / "index.json", {"models": [entry]})
    use(f"{web.url}/index.json")
    monkeypatch.setattr(registry, "FRESH", 0.0)
    if before:
        if answer == "304 unasked":
            return  # that is what was asked for
        model_zoo.find("friend/tiny")
    status, headers, body = INVALID[answer]
    web.fail(status=status, headers=headers, body=body)
    with pytest.warns(UserWarning, match=f"the registry {web.url}/index.json c") as caught:
        names = [model.name for model in model_zoo.list_models()]
    assert len(caught) == 1 and len(str(caught[0].message)) < 400
    assert names == (["friend/tiny", NAME] if before else [NAME])
    assert model_zoo.find(NAME).name == NAME
    with pytest.raises(model_zoo.RegistryError, match=f"the registry {web.url}/index.json c"):
        model_zoo.find("friend/unknown")
    if before:
        assert model_zoo.find("friend/tiny").name == "friend/tiny"
        web.faults.clear()
        assert len(model_zoo.list_models()) == 2


@pytest.fixture
def drip():
    """A server that sends a byte of its headers, or of a body without end, ten times a second."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(start):
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    threading.Thread(target=pour, args=(connection, start), daemon=True).start()

        def pour(connection, start):
            with contextlib.suppress(OSError), connection:
                connection.sendall(start)
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.1)

        def begin(start):
            threading.Thread(target=serve, args=(start,), daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}/index.json"

        yield begin


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"]
)
def test_slow_registries_end_by_the_clock(start, drip, known, entry, use, monkeypatch):
    """All of them together, though a byte comes before every timeout; the others are listed."""
    monkeypatch.setattr(registry, "DEADLINE", 0.7)
    slow = drip(start)
    use(slow, f"{slow}?2", f"{known.url}/index.json")
    begun = time.monotonic()
    with pytest.warns(
        UserWarning, match="cannot be used: (it did not come within|it took too long|.*timed out)"
    ) as caught:
        assert [model.name for model in model_zoo.list_models()] == ["friend/tiny", NAME]
    assert time.monotonic() - begun < 5 and len(caught) == 2


def test_a_registry_that_does_not_even_time_out(known, monkeypatch):
    """Such as a resolver of names: the wait ends all the same."""
    monkeypatch.setattr(registry, "DEADLINE", 0.3)
    monkeypatch.setattr(registry, "FRESH", 0.0)
    released = threading.Event()
    monkeypatch.setattr(registry._Copy, "renew", lambda self, until: released.wait(20))
    begun = time.monotonic()
    with pytest.warns(UserWarning, match="it did not come within"):
        assert len(model_zoo.list_models()) == 2
    assert time.monotonic() - begun < 10
    released.set()


@pytest.mark.parametrize(
    "headers", [{"Content-Encoding": ""}, {"Content-Length": "{n}, {n}"}, {"Content-Encoding": "identity"}], ids=str
)
def test_odd_answers_that_are_right(headers, catalogue_of, entry, use, web):
    catalogue_of()
    body = json.dumps({"models": [entry]}).encode()
    headers = {key: value.format(n=len(body)) for key, value in headers.items()}
    web.fail(body=body, headers=headers)
    use(f"{web.url}/index.json")
    assert model_zoo.find("friend/tiny").name == "friend/tiny"


def test_early_hints(catalogue_of, entry, use, drip):
    """103 comes before the answer itself."""
    catalogue_of()
    body = json.dumps({"models": [entry]}).encode()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    use(drip(hint + hint + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    assert model_zoo.find("friend/tiny").name == "friend/tiny"


def test_offline_without_a_copy(catalogue_of, manifest, use, monkeypatch):
    catalogue_of(manifest)
    use("https://a.example/index.json?token=secret")
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a socket was opened"))
    assert model_zoo.find(NAME).name == NAME
    with pytest.raises(model_zoo.RegistryError, match="MODEL_ZOO_OFFLINE keeps the network closed") as caught:
        model_zoo.find("friend/tiny")
    assert "secret" not in str(caught.value)


def test_local_files_only_asks_no_registry(catalogue_of, manifest, entry, use, web, monkeypatch):
    catalogue_of(manifest)
    write(web.folder / "index.json", {"models": [entry]})
    use(f"{web.url}/index.json")
    with monkeypatch.context() as closed:
        closed.setattr(socket.socket, "connect", lambda *args: pytest.fail("a socket was opened"))
        with pytest.raises(model_zoo.RegistryError, match=r"has not been read yet; `model-zoo list` reads it"):
            model_zoo.download("friend/tiny", local_files_only=True)
        with pytest.raises(model_zoo.NotCachedError):
            model_zoo.download(NAME, local_files_only=True)
    assert len(model_zoo.list_models()) == 2
    with monkeypatch.context() as closed:
        closed.setattr(socket.socket, "connect", lambda *args: pytest.fail("a socket was opened"))
        with pytest.raises(model_zoo.NotCachedError):
            model_zoo.download("friend/tiny", local_files_only=True)
        with pytest.raises(model_zoo.UnknownModelError):
            model_zoo.download("friend/new", local_files_only=True)


def test_the_token_of_an_address_is_not_kept(catalogue_of, manifest, entry, use, web, monkeypatch):
    """Others may read the cache."""
    catalogue_of(manifest)
    web.fail(path="?token=s3cret", body=json.dumps({"models": [entry]}).encode())
    use(f"{web.url}/index.json?token=s3cret")
    assert model_zoo.find("friend/tiny").name == "friend/tiny"
    assert len(web.requests) == 1
    assert model_zoo.find("friend/tiny").name == "friend/tiny"
    assert len(web.requests) == 1
    (copy,) = (settings.home() / registry.FOLDER).iterdir()
    assert "s3cret" not in copy.read_text() + copy.name
    use(f"{web.url}/index.json?token=another")
    with pytest.raises(model_zoo.RegistryError, match="404"):
        model_zoo.find("friend/tiny")


def test_damaged_copy_is_read_anew(known):
    (copy,) = (settings.home() / registry.FOLDER).iterdir()
    for text in ("", "[]", "{}", '{"url": "x", "asked": 0}\nfriend/tiny\t{}\n', "\0" * 100):
        copy.write_text(text)
        assert model_zoo.find("friend/tiny").name == "friend/tiny"


def test_homes_that_cannot_be_written(known, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "read-only").mkdir(mode=0o500)
    for home in ("file", "read-only"):
        monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / home))
        assert model_zoo.find("friend/tiny").name == "friend/tiny"


def test_relative_places_and_home(tmp_path, catalogue_of, entry, use, monkeypatch):
    catalogue_of()
    write(tmp_path / "mine/friend/tiny.json", entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for place in ("mine", "./mine", "~/mine"):
        use(place)
        assert model_zoo.find("friend/tiny").registry == str(tmp_path / "mine")


@pytest.mark.parametrize("lost", ["its copy", "the setting", "the entry"])
def test_a_complete_model_outlives_its_registry(
    lost, catalogue_of, manifest, entry, use, web, contents, tmp_path, monkeypatch
):
    catalogue_of(manifest)
    write(web.folder / "index.json", {"models": [entry]})
    for path, content in contents.items():
        (web.folder / "friend/tiny" / path).parent.mkdir(parents=True, exist_ok=True)
        (web.folder / "friend/tiny" / path).write_bytes(content)
    use(f"{web.url}/index.json")
    folder = model_zoo.download("friend/tiny")
    if lost == "its copy":
        next((settings.home() / registry.FOLDER).iterdir()).unlink()
    elif lost == "the setting":
        use()
    else:
        write(web.folder / "index.json", {"models": []})
        model_zoo.registry.find(NAME, refresh=True)
    assert model_zoo.download("friend/tiny", local_files_only=True) == folder
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    assert model_zoo.resolve("friend/tiny") == folder
    os.truncate(folder / "model_index.json", 10)
    with pytest.raises((model_zoo.UnknownModelError, model_zoo.RegistryError)):
        model_zoo.download("friend/tiny", local_files_only=True)
