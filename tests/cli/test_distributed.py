"""`upscale --distributed`: workers do what the command does alone, and say what it says."""

import json
import os
import pickle
import signal
import socket
import sys

import numpy as np
import pytest
from PIL import Image
from stub_pipeline import Loader, upscale

from ppdiffusers.cli import distributed


class Here:
    """In place of `by_ray`: workers of this process, which take turns, and answer the last row first.

    `deaths`: how often a row was begun before, by the name of its input. `twice`: each row is done by two workers, as
    where the first one dies before it has told.
    """

    def __init__(self, deaths=None, twice=False, **setup):
        self.deaths, self.twice, self.setup = deaths or {}, twice, setup

    def __call__(self, setup, rows, args):
        attempts = distributed.Attempts()
        setup = {**dict(zip(("make", "home", "gpus", "version"), setup)), **self.setup, "count": attempts.count}
        workers = [distributed.Worker(**setup) for _ in range(2)]
        for turn, row in enumerate(reversed(rows)):
            for _ in range(self.deaths.get(pickle.loads(row["job"]).source.name, 0)):
                attempts.count(row["number"])
            if self.twice:
                workers[turn % 2](row)
            yield workers[(turn + 1) % 2](row)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # and put back afterwards
    return tmp_path


def write_pictures(folder, count=5):
    """Good ones, one of another kind that loses something, and junk; with a result that is there."""
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((6 + number, 4), 80).convert("RGB").save(folder / f"{number}.png")
    Image.fromarray(np.full((5, 3), 70, np.uint16)).save(folder / "deep.png", dpi=(300, 300))
    (folder / "junk.png").write_bytes(b"hello")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])


def outcome(capsys, *arguments, load=None):
    """Exit code, lines of JSON without times, and the last lines of standard error."""
    code = upscale(load or Loader(), *arguments, "--json", "--seed", 3)
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    for row in rows:
        row.pop("seconds", None)
        row.pop("output", None)
    return code, sorted(rows, key=lambda row: row["input"]), said.err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_workers_do_and_tell_is_what_the_command_does_alone(here, capsys, monkeypatch):
    write_pictures(here / "in")
    for name in ("alone", "spread"):
        (here / name).mkdir()
        (here / name / "1.jpg").write_text("mine")
    alone = outcome(capsys, "in", "-o", "alone", "--ext", "jpg")
    loader = Loader()
    monkeypatch.setattr(distributed, "by_ray", Here())
    spread = outcome(capsys, "in", "-o", "spread", "--ext", "jpg", "--distributed", load=loader)
    assert spread[:2] == alone[:2] and alone[0] == 1
    assert {row["status"] for row in spread[1]} == {"done", "failed", "skipped"}
    assert sorted(spread[2].splitlines()[:-1]) == sorted(
        line.replace("alone", "spread") for line in alone[2].splitlines()[:-1]
    )
    assert "16 bits" in spread[2] and "5 done, 1 there already" in spread[2]
    assert contents(here / "spread") == contents(here / "alone")
    assert loader.count == 2  # once a worker


def test_what_workers_die_of_is_listed(here, capsys, monkeypatch):
    write_pictures(here / "in", 3)
    monkeypatch.setattr(distributed, "by_ray", Here(deaths={"in/1.png": 3, "in/2.png": 2}))
    code, rows, errors = outcome(capsys, "in", "-o", "out", "--distributed")
    assert code == 1
    (lost,) = [row for row in rows if row["input"] == "in/1.png"]
    assert lost["status"] == "failed" and "3 workers died" in lost["error"]
    assert sorted(contents(here / "out")) == ["0.png", "2.png", "deep.png"] and "in/1.png" in errors.splitlines()[-1]


def test_a_picture_whose_worker_died_before_it_told_is_done(here, capsys, monkeypatch):
    write_pictures(here / "in", 2)
    monkeypatch.setattr(distributed, "by_ray", Here(twice=True))
    left = here / "out" / ".ppdiffusers-0123456789ab.part"

    class Dying(Loader):
        def __call__(self, args):
            left.write_bytes(b"half")
            return super().__call__(args)

    (here / "out").mkdir()
    code, rows, _ = outcome(capsys, "in", "-o", "out", "--distributed", load=Dying())
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done", "failed"] and code == 1
    assert sorted(contents(here / "out")) == ["0.png", "1.png", "deep.png"]  # and nothing half made


@pytest.mark.parametrize(
    "setup, message", [({"version": "0.0.1"}, "not 0.0.1"), ({"home": "nowhere/here"}, "nowhere/here is not there")]
)
def test_machines_that_cannot_help_are_said(here, capsys, monkeypatch, setup, message):
    write_pictures(here / "in", 2)
    monkeypatch.setattr(distributed, "by_ray", Here(**setup))
    code, rows, errors = outcome(capsys, "in", "-o", "out", "--distributed")
    assert (code, rows) == (2, [])
    (line,) = errors.splitlines()
    assert message in line and socket.gethostname() in line


def test_a_model_that_cannot_be_had_ends_the_run(here, capsys, monkeypatch):
    write_pictures(here / "in", 2)
    monkeypatch.setattr(distributed, "by_ray", Here())

    def load(args):
        raise OSError("no such model")

    code, _, errors = outcome(capsys, "in", "-o", "out", "--distributed", load=load)
    assert code == 2 and "no such model" in errors and not (here / "out").exists()


def test_a_full_disk_ends_the_run(here, capsys, monkeypatch):
    import errno

    write_pictures(here / "in", 3)
    monkeypatch.setattr(distributed, "by_ray", Here())

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ppdiffusers.cli.saving.write", full)
    code, _, errors = outcome(capsys, "in", "-o", "out", "--distributed")
    assert code == 1 and errors.count("failed: [Errno") == 1


def test_workers_are_told_their_threads_and_see_no_gpu(here, monkeypatch):
    write_pictures(here / "in", 1)
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    monkeypatch.setattr(distributed, "by_ray", Here())
    seen = []

    class Looking(Loader):
        def __call__(self, args):
            seen.append((args.threads, os.environ["CUDA_VISIBLE_DEVICES"]))
            return super().__call__(args)

    for options, wanted in (([], (1, "")), (["--threads", "3"], (3, ""))):
        assert upscale(Looking(), "in/0.png", "--overwrite", "--distributed", *options) == 0
        assert seen.pop() == wanted
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"  # as Ray sets it for one that asked
    assert upscale(Looking(), "in/0.png", "--overwrite", "--distributed", "--gpus", "0.5") == 0
    assert seen.pop() == (1, "1")


def test_verbose_shows_where_an_error_of_a_worker_comes_from(here, capsys, monkeypatch):
    write_pictures(here / "in", 1)
    monkeypatch.setattr(distributed, "by_ray", Here())
    assert upscale(Loader(), "in/junk.png", "--distributed", "-v") == 1
    errors = capsys.readouterr().err
    assert "in do\n" in errors and "in/junk.png is not a picture" in errors


@pytest.mark.parametrize(
    "options, message",
    [
        (["--workers", "2"], "--workers goes with --distributed"),
        (["--address", "auto"], "--address goes with --distributed"),
        (["--gpus", "1"], "--gpus goes with --distributed"),
        (["--distributed", "-o", "-"], "this machine alone"),
        (["--distributed", "--workers", "0"], "'0'"),
        (["--distributed", "--gpus", "-1"], "'-1'"),
        (["--distributed"], 'pip install "ray[data]'),
    ],
)
def test_what_cannot_be_done_is_said(here, capsys, monkeypatch, options, message):
    write_pictures(here / "in", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert upscale(Loader(), "in/0.png", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# With Ray


class Deadly(Loader):
    """Kills the worker that meets `once` for the first time (it leaves a file then), and whoever meets `always`.
    Pictures are told by their width."""

    def __init__(self, mark, once, always):
        super().__init__(seconds=0.2)
        self.mark, self.once, self.always = str(mark), once, always

    def __call__(self, args):
        pipeline, steps, options = super().__call__(args)
        stream = pipeline.stream

        def deadly(image, **options):
            width = image.shape[1]
            if width == self.always or width == self.once and not os.path.exists(self.mark):
                open(self.mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from stream(image, **options)

        pipeline.stream = deadly
        return pipeline, steps, options


@pytest.mark.slow
def test_two_actors_one_of_which_is_killed(here, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    import stub_pipeline
    from ray import cloudpickle

    for module in (sys.modules[__name__], stub_pipeline):  # which workers cannot import
        cloudpickle.register_pickle_by_value(module)
    write_pictures(here / "in", 8)  # of widths 6 to 13
    alone = outcome(capsys, "in", "-o", "alone")
    options = ["--distributed", "--workers", "2"]
    spread = outcome(capsys, "in", "-o", "spread", *options, load=Deadly(here / "mark", 8, 99))
    assert spread[:2] == alone[:2] and (here / "mark").exists(), spread[2]
    assert contents(here / "spread") == contents(here / "alone")
    code, rows, errors = outcome(capsys, "in", "-o", "third", *options, load=Deadly(here / "mark", 8, 9))
    assert code == 1 and "3 workers died of it" in errors  # and the others are made
    assert contents(here / "third") == {
        name: data for name, data in contents(here / "alone").items() if name != "3.png"
    }
