"""`upscale --distributed`: the same work, picture by picture, in the processes of a Ray cluster.

The command plans, checks and tells as it does without; only `do` of its upscaler runs elsewhere. Each worker is an
actor of Ray Data with a pipeline that it loads once. What a worker has to say is told by the command.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pickle
import re
import socket
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generator, Iterator, List, Tuple

from ppdiffusers.cli.jobs import STDIN, Job
from ppdiffusers.cli.parsing import UsageError, between, positive
from ppdiffusers.cli.report import Report
from ppdiffusers.version import __version__

ATTEMPTS = 3  # at a picture whose worker dies
INSTALL = 'Ray is not installed: `pip install "ray[data]>=2.45,<3"` brings it'

# `make(report)`: what does the jobs of a process, one after the other, with `do(job)` as of `upscale`.
Make = Callable[[Any], Any]
Row = Dict[str, Any]  # of the data set: the number of a job with the job, and then with the answer; both are pickled


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many machines")
    group.add_argument("--distributed", action="store_true", help="on a Ray cluster; without --address, one that is "
                       "started here")  # fmt: skip
    group.add_argument("--address", metavar="WHERE", help="HOST:PORT of a cluster, or auto: the one that runs here "
                       "(default: RAY_ADDRESS)")  # fmt: skip
    group.add_argument("--workers", type=positive, metavar="N", help="default: as many as there is room for, with "
                       "--threads CPUs each (default: 1)")  # fmt: skip
    group.add_argument("--gpus", type=between(0, 64), default=0, metavar="N", help="of each worker; 0.5 for two on "
                       "one GPU (default: 0)")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """That the options go together.

    Raises:
        UsageError: they do not.
    """
    given = [f"--{name}" for name in ("address", "workers", "gpus") if getattr(args, name)]
    if given and not args.distributed:
        raise UsageError(f"{given[0]} goes with --distributed")
    if args.distributed and (STDIN in args.inputs or args.output == STDIN):
        raise UsageError("--distributed takes files and writes files; - is for this machine alone")


@dataclass
class Answer:
    """What a worker has to say of a job: calls of `Report`; `full`: no further picture could be written; `unable`: no
    picture can be made there, and why."""

    told: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = field(default_factory=list)
    full: bool = False
    unable: str = ""


class WorkerError(Exception):
    """What went wrong in another process: its message, and its traceback as text."""

    def __init__(self, message: str, trace: str = ""):
        super().__init__(message, trace)
        self.__cause__ = _Trace(f"\n{trace}") if trace else None

    def __str__(self) -> str:
        return str(self.args[0])


class _Trace(Exception):
    pass


class _Told:
    """As `Report`, in a worker: keeps what is told, but for the progress."""

    def __init__(self) -> None:
        self.answer = Answer()

    def begin(self, name: str, pixels: float, what: str = "") -> None:
        pass

    def progress(self, share: float, what: str) -> None:
        pass

    def finished(self, text: str, **facts: Any) -> None:
        self.answer.told.append(("finished", (text,), facts))

    def note(self, message: str, always: bool = False) -> None:
        self.answer.told.append(("note", (message, always), {}))

    def fail(self, name: str, error: BaseException, **facts: Any) -> None:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.answer.told.append(("fail", (name, WorkerError(str(error) or type(error).__name__, trace)), facts))


class Attempts:
    """Counts how often each job was begun: Ray gives a job whose worker died to another one for ever."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def count(self, number: int) -> int:
        self._counts[number] += 1
        return self._counts[number]


class Worker:
    """Does the jobs that it is called with, in rows of a data set.

    Args:
        make: of the upscaler.
        home: the folder that relative paths start from.
        gpus: how many it may use.
        version: of the command that asks.
        count: of `Attempts`, which all workers share.
    """

    def __init__(self, make: Make, home: str, gpus: float, version: str, count: Callable[[int], int]):
        self._make, self._home, self._gpus, self._version, self._count = make, home, gpus, version, count
        self._upscaler: Any = None

    def __call__(self, row: Row) -> Row:
        job: Job = pickle.loads(row["job"])
        report = _Told()
        try:
            if self._upscaler is None:
                self._settle()
                self._upscaler = self._make(report)
            self._upscaler.report = report
            if self._count(int(row["number"])) > ATTEMPTS:
                name = job.source.shown
                why = f"{name}: {ATTEMPTS} workers died of it, perhaps of too little memory"
                report.fail(name, WorkerError(why))
            else:
                report.answer.full = not self._upscaler.do(job)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            report.answer.unable = f"{reason} (on {socket.gethostname()})"
        return {"number": row["number"], "answer": pickle.dumps(report.answer)}

    def _settle(self) -> None:
        """Before paddle is imported.

        Raises:
            UsageError: the results would not be those of the machine that asks.
        """
        if self._version != __version__:
            raise UsageError(f"version {__version__} is installed, and not {self._version}; install the same")
        if not self._gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # newer versions of Ray leave all of them visible
        try:
            os.chdir(self._home)
        except OSError:
            raise UsageError(f"{self._home} is not there; start in a folder that all machines share") from None


def run(make: Make, jobs: List[Job], report: Report, args: argparse.Namespace) -> None:
    """Do the jobs whose results are not there, and tell `report` as they are done.

    Raises:
        UsageError: what keeps a worker from making any picture.
        OSError, ModuleNotFoundError: of `by_ray`.
    """
    for job in jobs:
        if job.exists:
            report.skip(job.source.name, str(job.target))
    left = {number: job for number, job in enumerate(jobs) if not job.exists}
    if not left:
        return
    report.begin("distributed", 0.0, "starting workers")
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in left.items()]
    setup = (make, os.getcwd(), args.gpus, __version__)
    # `report` has its own standard output: threads of Ray print what they like to the one that is there.
    silence = open(os.devnull, "w")
    with silence, contextlib.redirect_stdout(sys.stderr if args.verbose else silence):
        with contextlib.closing(by_ray(setup, rows, args)) as results:
            for row in results:
                job, answer = left.pop(int(row["number"])), pickle.loads(row["answer"])
                if answer.unable:
                    raise UsageError(answer.unable)
                report.begin(job.source.shown, job.pixels, "done")
                for method, arguments, facts in answer.told:
                    getattr(report, method)(*arguments, **facts)
                if answer.full:
                    return


def by_ray(setup: Tuple[Any, ...], rows: List[Row], args: argparse.Namespace) -> Generator[Row, None, None]:
    """Rows with answers, in the order in which a pool of actors has them.

    Args:
        setup: the arguments of each `Worker`, but the last one.

    Raises:
        ModuleNotFoundError: no Ray.
        OSError: no cluster there, or it is lost.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(INSTALL) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which would be sent somewhere
    if not args.verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    threads = args.threads or 1
    address = args.address or os.environ.get("RAY_ADDRESS") or "local"
    options: Dict[str, Any] = {"log_to_driver": args.verbose, "logging_level": logging.ERROR}
    if address == "local":
        from ppdiffusers.threads import physical_cores

        options.update(num_cpus=max(physical_cores(), threads * (args.workers or 1)), include_dashboard=False)
    try:
        ray.init(address=address, **options)
        yield from _answers(ray, setup, rows, args, threads)
    except Exception as error:  # all that is done here is Ray's, which raises of many kinds
        said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())  # without colours
        raise OSError(f"the Ray cluster {address} failed: {said[:400]}") from error
    finally:
        ray.shutdown()


def _answers(
    ray: Any, setup: Tuple[Any, ...], rows: List[Row], args: argparse.Namespace, threads: int
) -> Iterator[Row]:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    room = ray.cluster_resources()
    size = int(room.get("CPU", 0) // threads)
    if args.gpus:
        size = min(size, int(room.get("GPU", 0) / args.gpus))
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=(*setup, lambda number: ray.get(attempts.count.remote(number))),
        # One picture at a time: what waits for a worker that dies is not begun.
        compute=ray.data.ActorPoolStrategy(
            size=min(args.workers or max(size, 1), len(rows)), max_tasks_in_flight_per_actor=1
        ),
        num_cpus=threads,
        num_gpus=args.gpus,
    )
    for batch in answered.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        for number, answer in zip(batch["number"], batch["answer"]):
            yield {"number": number, "answer": answer}
