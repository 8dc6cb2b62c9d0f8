from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import socket
import struct
import tarfile
import zipfile

import pytest
from zoo_files import ALIAS, NAME, WEIGHTS, files_in

import model_zoo
from model_zoo import cache, importing
from model_zoo.formats import scan

KINDS = ["folder", "zip", "tar", "tar.gz"]


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a socket was opened"))


@pytest.fixture(autouse=True)
def catalogue(catalogue_of, manifest):
    catalogue_of(manifest)


@pytest.fixture
def contents(contents):
    """As in other tests, but JSON and a pickle where the names say so, since no hash vouches for them."""
    index = b'{"_class_name": "LDMSuperResolutionPipeline"}'.ljust(256)
    return {**contents, "model_index.json": index, WEIGHTS: pickle.dumps({"weight": contents[WEIGHTS]}, 4)}


@pytest.fixture
def carry(tmp_path):
    """A function that puts files (path to bytes) into a folder or archive of a kind."""

    def carry(kind, files, name="carried"):
        place = tmp_path / "stick" / (name if kind == "folder" else f"{name}.{kind}")
        place.parent.mkdir(exist_ok=True)
        if kind == "folder":
            for path, content in files.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(content)
        elif kind == "zip":
            with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
                for path, content in files.items():
                    archive.writestr(path, content)
        else:
            with tarfile.open(place, "w:gz" if kind == "tar.gz" else "w") as archive:
                for path, content in files.items():
                    add(archive, path, content)
        return place

    return carry


def add(archive, path, content=b"", **fields):
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def assert_nothing(home):
    left = {path for path in files_in(home) if not path.startswith(".locks/")} if home.exists() else set()
    assert left == set()
    assert not list(home.glob(".*-*"))


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("root", ["", "small/", "./", "backup of the zoo/tester/small/"])
def test_import(kind, root, carry, contents, folder, home):
    source = carry(kind, {root + path: content for path, content in contents.items()} | {f"{root}notes.txt": b"x"})
    assert model_zoo.import_model(source, ALIAS) == folder
    assert files_in(folder) == {*contents, ".complete"}
    for path, content in contents.items():
        assert (folder / path).read_bytes() == content
    assert model_zoo.download(NAME, local_files_only=True) == folder
    assert sorted(path.name for path in home.iterdir() if path.name != ".locks") == ["tester"]
    marker = json.loads((folder / ".complete").read_text())
    assert [(item["path"], item["size"]) for item in marker["files"]] == [(p, len(c)) for p, c in contents.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_paths_say_which_model_it_is(kind, carry, contents, folder):
    source = carry(kind, {f"zoo/{ALIAS}/{path}": content for path, content in contents.items()})
    assert model_zoo.import_model(source) == folder


def test_the_place_says_which_model_it_is(carry, contents, folder, tmp_path):
    source = carry("folder", contents, "small")
    source.parent.rename(tmp_path / "tester")
    assert model_zoo.import_model(tmp_path / "tester" / "small") == folder


def test_unnamed_source(carry, contents, home):
    with pytest.raises(model_zoo.SourceError, match="does not say which model it is; say it with --name"):
        model_zoo.import_model(carry("folder", contents))
    with pytest.raises(model_zoo.UnknownModelError):
        model_zoo.import_model(carry("folder", contents), "tester/other")
    assert_nothing(home)


def test_two_models_in_one_source(carry, contents, catalogue_of, manifest, home):
    catalogue_of(manifest, {**manifest, "name": "tester/twin", "aliases": []})
    files = {f"{name}/{path}": content for name in (NAME, "tester/twin") for path, content in contents.items()}
    source = carry("tar", files)
    with pytest.raises(model_zoo.SourceError, match="has tester/small and tester/twin; say it with --name"):
        model_zoo.import_model(source)
    with pytest.raises(model_zoo.SourceError, match="has tester/small in tester/small/ and in tester/twin/"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


WRONG = {
    "missing": (lambda files: files.pop(WEIGHTS), r"lacks unet/model_state\.pdparams of tester/small"),
    "missing all": (lambda files: files.clear() or files.update(x=b""), r"lacks model_index\.json, empty\.txt, .* of"),
    "short": (lambda files: files.update({"model_index.json": b"{}"}), "has 2 bytes, not 256 as catalogued"),
    "long": (lambda files: files.update({"model_index.json": bytes(257)}), "has more bytes, not 256 as catalogued"),
    "another hash": (
        lambda files: files.update({"unet/config.json": bytes(703)}),
        "unet/config.json .* has the sha256",
    ),
    "no JSON": (lambda files: files.update({"model_index.json": bytes(256)}), r"model_index\.json of .* is damaged"),
    "far too long": (lambda files: files.update({WEIGHTS: bytes(2 * 20_300 + (1 << 20) + 1)}), "has more bytes"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", WRONG)
def test_half_a_model_is_never_imported(kind, wrong, carry, contents, home):
    change, message = WRONG[wrong]
    change(contents)
    with pytest.raises(model_zoo.SourceError, match=message) as caught:
        model_zoo.import_model(carry(kind, contents), NAME)
    assert "\n" not in str(caught.value)
    assert_nothing(home)


def test_unknown_sizes_have_a_limit(carry, contents, home, monkeypatch, manifest, catalogue_of):
    monkeypatch.setattr(importing, "MOST_UNKNOWN", 1000)
    manifest["files"][1] = {"path": "empty.txt"}
    catalogue_of(manifest)
    contents["empty.txt"] = bytes(1001)
    with pytest.raises(model_zoo.SourceError, match=r"empty\.txt of .* has more bytes, not 1,000"):
        model_zoo.import_model(carry("zip", contents), NAME)
    assert_nothing(home)


def test_interrupted_import_leaves_nothing(carry, contents, home, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(scan, "complaint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model_zoo.import_model(carry("zip", contents), NAME)
    assert_nothing(home)


def test_a_complete_model_is_not_replaced(carry, contents, folder):
    source = carry("folder", contents)
    model_zoo.import_model(source, NAME)
    with pytest.raises(model_zoo.CacheError, match="already complete in .*; to replace it, remove it first"):
        model_zoo.import_model(source, NAME)
    assert (folder / WEIGHTS).read_bytes() == contents[WEIGHTS]


def test_a_model_that_was_completed_meanwhile_is_not_replaced(carry, contents, folder, monkeypatch):
    """By a download that ended while the archive was copied."""
    source = carry("folder", contents)
    copy = importing._copy_all

    def overtaken(*arguments):
        hashes = copy(*arguments)
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        cache.mark_complete(model_zoo.find(NAME), folder)
        return hashes

    monkeypatch.setattr(importing, "_copy_all", overtaken)
    with pytest.raises(model_zoo.CacheError, match="is already complete"):
        model_zoo.import_model(source, NAME)
    assert cache.is_complete(model_zoo.find(NAME), folder)


def test_an_unfinished_download_is_replaced(carry, contents, folder):
    folder.mkdir(parents=True)
    (folder / ".model_index.json.0011aabb.part").write_bytes(b"half")
    (folder / "unet").mkdir()
    assert model_zoo.import_model(carry("tar", contents), NAME) == folder
    assert files_in(folder) == {*contents, ".complete"}


@pytest.mark.skipif(os.name != "posix", reason="links and devices of POSIX")
def test_links_and_devices_in_a_folder_do_not_count(carry, contents, home, tmp_path):
    source = carry("folder", contents)
    os.mkfifo(source / "pipe")
    (tmp_path / "outside").write_bytes(contents["model_index.json"])
    (source / "model_index.json").unlink()
    (source / "model_index.json").symlink_to(tmp_path / "outside")
    with pytest.raises(model_zoo.SourceError, match=r"lacks model_index\.json of tester/small \(links do not count\)"):
        model_zoo.import_model(source, NAME)
    shutil.move(source / "unet", tmp_path / "unet")
    (source / "unet").symlink_to(tmp_path / "unet")
    with pytest.raises(model_zoo.SourceError, match=r"unet/config\.json"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


PATHS = ["../evil", "a/../../evil", "/evil", "//evil", "C:/evil", "c:evil", "a\\..\\evil", "..", "small/../../evil"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("path", PATHS)
def test_paths_that_leave_the_archive(kind, path, carry, contents, home, tmp_path):
    source = carry(kind, {**contents, path: b"evil"})
    with pytest.raises(model_zoo.SourceError, match="a path that leaves the archive: refused"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)
    assert not list(tmp_path.rglob("evil"))


def test_nul_in_a_zip_path(carry, contents, home):
    source = carry("zip", {**contents, "model_index.jsonX../evil": b""})
    source.write_bytes(source.read_bytes().replace(b"model_index.jsonX", b"model_index.json\0"))
    with pytest.raises(model_zoo.SourceError):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/hostname"},
        {"type": tarfile.SYMTYPE, "linkname": "../../.."},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/hostname"},
        {"type": tarfile.LNKTYPE, "linkname": "model_index.json"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_links_and_devices_in_a_tar(kind, fields, carry, contents, home, tmp_path):
    source = tmp_path / f"evil.{kind}"
    with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
        for path, content in contents.items():
            add(archive, path, content)
        add(archive, WEIGHTS, **fields)
    with pytest.raises(model_zoo.SourceError, match="holds a link or device"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def test_links_in_a_zip(contents, home, tmp_path):
    source = tmp_path / "evil.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
        link = zipfile.ZipInfo("unet/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(model_zoo.SourceError, match="holds a link or device, 'unet/link'"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_path_twice(kind, contents, home, tmp_path):
    source = tmp_path / f"twice.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
            for path, content in [*contents.items(), *contents.items()]:
                archive.writestr(path, content)
    else:
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
            for path, content in [*contents.items(), *contents.items()]:
                add(archive, path, content)
    with pytest.raises(model_zoo.SourceError, match="twice: refused"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compression(method, contents, home, tmp_path):
    with zipfile.ZipFile(tmp_path / "rare.zip", "w", method) as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
    with pytest.raises(model_zoo.SourceError, match=f"of method {method}; unpack it by hand"):
        model_zoo.import_model(tmp_path / "rare.zip", NAME)
    assert_nothing(home)


def test_encrypted_zip(carry, contents, home):
    source = carry("zip", contents)
    data = bytearray(source.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(magic, place + 1)) >= 0:
            data[place + offset] |= 1
    source.write_bytes(data)
    with pytest.raises(model_zoo.SourceError, match="is an encrypted zip archive"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def test_zip_bomb_by_its_own_account(contents, carry, home, monkeypatch):
    monkeypatch.setattr(importing, "INFLATION_SLACK", 1 << 20)
    source = carry("zip", {**contents, "bomb": bytes(100 << 20)})
    with pytest.raises(model_zoo.SourceError, match="unpacks to more than 200 times its size"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.parametrize("place", ["bomb", WEIGHTS])
def test_tar_bomb(place, contents, home, tmp_path, monkeypatch):
    """64 GB by its own account, in a file of the model or in another; it is never unpacked so far."""
    monkeypatch.setattr(importing, "INFLATION_SLACK", 1 << 20)
    source = tmp_path / "bomb.tar.gz"
    with gzip.open(source, "wb", compresslevel=1) as stream:
        archive = tarfile.open(fileobj=stream, mode="w")  # not closed, which would end it
        for path, content in contents.items():
            if path != place:
                add(archive, path, content)
        entry = tarfile.TarInfo(place)
        entry.size = 1 << 36
        stream.write(entry.tobuf(tarfile.GNU_FORMAT))
        stream.write(bytes(8 << 20))
    with pytest.raises(model_zoo.SourceError, match="unpacks to more than 200 times its size"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def pax_header(size):
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tar_header_that_wants_all_memory(kind, home, tmp_path):
    source = tmp_path / f"evil.{kind}"
    header = pax_header(1 << 33)
    source.write_bytes(gzip.compress(header + bytes(1 << 20)) if kind == "tar.gz" else header + bytes(1 << 20))
    with pytest.raises(model_zoo.SourceError, match="has a header of 8,589,934,592 bytes: refused"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def test_tar_headers_without_end(home, tmp_path):
    source = tmp_path / "evil.tar"
    record = b"11 path=ab\n"
    source.write_bytes((pax_header(len(record)) + record.ljust(512, b"\0")) * 3000)
    with pytest.raises(model_zoo.SourceError):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_too_many_entries(kind, carry, contents, home, monkeypatch):
    monkeypatch.setattr(importing, "MOST_ENTRIES", 3)
    with pytest.raises(model_zoo.SourceError, match="has more than 3 entries"):
        model_zoo.import_model(carry(kind, contents), NAME)
    assert_nothing(home)


def test_neither_folder_nor_archive(tmp_path, home):
    for content in (b"", b"hello" * 300, b"\x1f\x8b" + bytes(600), gzip.compress(b"hello" * 300)):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(model_zoo.SourceError, match="is no folder, zip, tar or tar.gz|is damaged"):
            model_zoo.import_model(tmp_path / "file", NAME)
    assert_nothing(home)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_damaged_archives(kind, carry, contents, home, folder):
    """Cut at, or with a byte flipped in, each of 30 places: refused in one sentence, or imported as it should be."""
    contents[WEIGHTS] = pickle.dumps(contents[WEIGHTS][:2000], 4)
    source = carry(kind, contents)
    whole = source.read_bytes()
    refused = 0
    for place in range(0, len(whole), len(whole) // 30):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]):
            source.write_bytes(damaged)
            try:
                model_zoo.import_model(source, NAME)
            except model_zoo.SourceError as error:
                refused += 1
                assert "\n" not in str(error)
                assert not folder.exists()
                continue
            assert files_in(folder) == {*contents, ".complete"}
            assert (folder / "unet/config.json").read_bytes() == contents["unet/config.json"]  # its hash is known
            assert kind == "tar" or all((folder / path).read_bytes() == contents[path] for path in contents)
            model_zoo.remove(NAME)
    assert refused >= 20


def test_sparse_tar_that_claims_a_lot(contents, home, tmp_path):
    """GNU's old sparse format: a header of a gigabyte over no data at all."""
    source = tmp_path / "sparse.tar"
    with tarfile.open(source, "w") as archive:
        for path, content in contents.items():
            if path != WEIGHTS:
                add(archive, path, content)
    entry = tarfile.TarInfo(WEIGHTS)
    entry.type, entry.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (1 << 32, 0)
    header[483 : 483 + 12] = b"%011o\0" % (1 << 32)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    body = source.read_bytes().rstrip(b"\0")
    body += bytes(-len(body) % 512)
    source.write_bytes(body + bytes(header) + bytes(1024))
    with pytest.raises(model_zoo.SourceError, match="a file of a rare kind"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def test_what_the_zip_directory_claims_is_not_believed(carry, contents, home):
    """There are more bytes than it announces, which must not end the file early."""
    source = carry("zip", contents)
    data = bytearray(source.read_bytes())
    place = data.find(WEIGHTS.encode(), data.find(b"PK\x01\x02")) - 46
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    source.write_bytes(data)
    with pytest.raises(model_zoo.SourceError, match="is not what its directory says|disagrees"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of open files from Linux")
def test_the_disk_has_the_files_before_their_place(carry, contents, folder, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    model_zoo.import_model(carry("tar", contents), NAME)
    staged = [path.partition("/.staging-")[2].partition("/")[2] for path in synced]
    assert {*contents} <= set(staged) and str(folder.parent) == synced[-1]


def test_a_flipped_byte_in_a_stored_zip(contents, home, tmp_path):
    """Where no hash is known, the archive's own checksum tells."""
    source = tmp_path / "stored.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
    data = bytearray(source.read_bytes())
    data[data.find(contents[WEIGHTS]) + 10_000] ^= 1
    source.write_bytes(data)
    with pytest.raises(model_zoo.SourceError, match="is not what its directory says"):
        model_zoo.import_model(source, NAME)
    assert_nothing(home)


def test_a_tar_that_ends_like_a_zip(contents, folder, tmp_path):
    """Its first bytes say what it is: torch's weights are zip archives themselves."""
    source = tmp_path / "honest.tar"
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", b"N.")
    with tarfile.open(source, "w") as archive:
        for path, content in {**contents, "last.bin": inner.getvalue()}.items():
            add(archive, path, content)
    assert zipfile.is_zipfile(source)  # to a reader that looks at the end
    assert model_zoo.import_model(source, NAME) == folder


def test_no_space(carry, contents, home, monkeypatch):
    usage = shutil.disk_usage(home.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1 << 20))
    with pytest.raises(model_zoo.CacheError, match="free space there"):
        model_zoo.import_model(carry("zip", contents), NAME)
    assert_nothing(home)
