"""The one loop of every task, from a configuration to a saved model, on one device or several."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import paddle

from ppdiffusers.config import ConfigError, appearing, read_json, write_json
from ppdiffusers.layers.attention import Attention
from ppdiffusers.layers.resnet import ResnetBlock2D
from ppdiffusers.layers.transformer import Transformer2DModel
from ppdiffusers.training import saving
from ppdiffusers.training.batches import Batches, bucket_shapes, open_sources
from ppdiffusers.training.conditions import CONDITIONS
from ppdiffusers.training.configuration import Configuration, learning_rate_at, plain
from ppdiffusers.training.evaluation import Validation, averaged
from ppdiffusers.training.first_stage import FirstStage
from ppdiffusers.training.loading import KeptLatents, load
from ppdiffusers.training.second_stage import SecondStage
from ppdiffusers.training.watching import Watcher

# What may be another in a run that goes on: nothing that the weights depend on, but how long it is.
_MAY_CHANGE = ("about", "steps", "log_every", "save_every", "validate_every", "validation_pictures", "keep", "visualdl")
TERMINATED = 128 + signal.SIGTERM


class Stopped(Exception):
    """The run was asked to end (SIGTERM) and has saved; `--resume` goes on."""


def open_stage(config: Configuration, given: Optional[Dict[str, Any]] = None, num_classes: int = 0) -> Any:
    """The task with its models; see `FirstStage` and `SecondStage`."""
    return (FirstStage if config.is_first_stage else SecondStage)(config, given, num_classes)


def needs_of(config: Configuration) -> Tuple[str, ...]:
    """Annotations that the task reads."""
    return () if config.is_first_stage else CONDITIONS[config.task].needs


class Training:
    """A run in the folder `out`.

    `out` gets `config.json`, `checkpoints/`, `log.jsonl`, `samples/`, `skipped.txt` (pictures that could not be used),
    `classes.json` where there are classes, and `model/`: the averaged weights as a saved pipeline, or as a saved first
    stage.

    Args:
        given: components to take as they are, by name.
        resume: go on from the last checkpoint, if there is one.

    Raises:
        ConfigError, DataError: what cannot be trained, before anything is written.
    """

    def __init__(self, config: Configuration, out: Path, given: Optional[Dict[str, Any]] = None, resume: bool = False):
        self.config, self.out = config, Path(out)
        self.rank, self.world = join()
        self.checkpoints = saving.Checkpoints(self.out, config.keep)
        last = self.checkpoints.last()
        if last is not None and not resume:
            raise ConfigError(f"{out} holds a run; go on with --resume, or name another folder with -o")
        if last is not None:
            self._compare(read_json(self.out / "config.json"))
        source, self._validation_source = open_sources(config, needs_of(config))
        classes = getattr(source, "classes", [])
        paddle.seed(config.seed)
        self.stage = open_stage(config, given, len(classes))
        if config.data.size % self.stage.multiple and not config.data.buckets:
            raise ConfigError(
                f"data.size {config.data.size} is no multiple of {self.stage.multiple}, as the models need"
            )
        self.watcher = Watcher(self.out, config.steps, config.batch_size, self.rank == 0, config.visualdl)
        if self.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(self.out / "config.json", plain(config))
            if classes:
                write_json(self.out / "classes.json", {str(number): name for number, name in enumerate(classes)})
        self.validation = Validation(
            config, self.stage, self._validation_source or source, self.rank, self.world
        )  # before latents take the place of pictures
        if config.data.cache_latents:
            source = KeptLatents(source, self.stage, self.out, self.rank, self.world)
        buckets = config.data.buckets
        shapes = bucket_shapes(config.data.size, buckets, self.stage.multiple) if buckets else []
        self.batches = Batches(source, self.stage.item, config.batch_size, config.seed, shapes)
        self.batches.item(0, 0)  # what cannot work at all is said here, and not by a process that reads
        self._names, self._skipped, self._found = getattr(source, "names", None), [], set()  # type: Any, List[Any], Set
        if config.recompute:
            recompute_blocks(self.stage.trained)
        self.optimizers = {name: self._optimizer(name, layer) for name, layer in self.stage.objectives.items()}
        self.averages = {
            name: value.detach().clone()
            for name, value in self.stage.trained.state_dict().items()
            if not value.stop_gradient
        }
        self._saved = -1  # step
        self.step, self.best = 0, {"name": None, "loss": float("inf")}  # type: int, Dict[str, Any]
        if last is not None:
            arrays, state = saving.read(last)
            saving.scatter(arrays, self.stage, self.optimizers, self.averages)
            self.step, self.best = state["step"], {**state["best_of"]}
            self._saved = self.step
            self.best["loss"] = float("inf") if self.best["loss"] is None else self.best["loss"]
            self.watcher.restore(state["pending"])
            if self.rank == 0:
                saving.cut_log(self.out / "log.jsonl", self.step)
                self.watcher.say(f"going on from step {self.step}")
        self.computing = {name: self._parallel(name, layer) for name, layer in self.stage.objectives.items()}
        self._stop = threading.Event()

    def run(self) -> Path:
        """All steps that are left; the folder of the finished model.

        Raises:
            Stopped: on SIGTERM, after saving.
            OSError: the last checkpoint or the model cannot be written.
        """
        config = self.config
        with self._sigterm():
            self.watcher.begin(self.step)
            for parts in load(self.batches, config, self.step, self.rank, self.world):
                self._take_step(parts)
                last = self.step == config.steps
                logged = self.step % config.log_every == 0 or last
                if logged:
                    self.watcher.log(self.step, self._rate(self.step - 1))
                    self._list_skipped()
                if self.step % config.validate_every == 0 or last:
                    self._validate()
                if self.step % config.save_every == 0 or last:
                    self._save(must=last)
                if self._must_stop(logged) and not last:
                    self._save(must=True)
                    raise Stopped(f"ended by a signal at step {self.step}, which is saved; go on with --resume")
        self.finish()
        self.watcher.close()
        return self.out / "model"

    def _take_step(self, parts: List[Dict[str, paddle.Tensor]]) -> None:
        config = self.config
        paddle.seed((config.seed << 20) + self.step * self.world + self.rank)  # dropout, of this step alone
        for name in self.stage.before_step(self.step, self.batches):
            paddle.assign(self.stage.trained.state_dict()[name], self.averages[name])
        self._skipped += [part.pop("skipped") for part in parts if "skipped" in part]
        figures: Dict[str, List[paddle.Tensor]] = {}
        for name in self.stage.active(self.step):
            layer, optimizer = self.computing[name], self.optimizers[name]
            optimizer.set_lr(self._rate(self.step, name))
            for i, part in enumerate(parts):
                with self._alone(layer, i < len(parts) - 1):
                    with paddle.amp.auto_cast(config.precision == "bf16", dtype="bfloat16"):
                        loss, logged = layer(part)
                    (loss / len(parts)).backward()
                for key, value in logged.items():
                    figures.setdefault(key, []).append(value)
            optimizer.step()
            optimizer.clear_grad()
        self.stage.after_step()
        self.watcher.add({key: paddle.stack(values) for key, values in figures.items()})
        self.step += 1
        self._average()

    @paddle.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        state = self.stage.trained.state_dict()
        for name, average in self.averages.items():
            paddle.assign(average + (state[name].astype(average.dtype) - average) * (1 - decay), average)

    def _rate(self, step: int, objective: str = "") -> float:
        config = self.config
        peak = config.reconstruction.discriminator_learning_rate if objective == "discriminator" else None
        return learning_rate_at(step, peak or config.learning_rate, config.warmup_steps, config.steps, config.schedule)

    def _optimizer(self, name: str, layer: paddle.nn.Layer) -> Any:
        config = self.config
        return paddle.optimizer.AdamW(
            learning_rate=config.learning_rate, beta1=config.betas[0], beta2=config.betas[1],
            parameters=[parameter for parameter in layer.parameters() if not parameter.stop_gradient],
            weight_decay=config.weight_decay,
            grad_clip=None if config.clip_norm is None else paddle.nn.ClipGradByGlobalNorm(config.clip_norm),
        )  # fmt: skip

    def _parallel(self, name: str, layer: paddle.nn.Layer) -> paddle.nn.Layer:
        if self.config.shard is not None:
            from paddle.distributed.sharding import group_sharded_parallel

            if self.world == 1 or not paddle.is_compiled_with_cuda():
                raise ConfigError("shard spreads optimiser states over several GPUs; leave it out here")
            layer, self.optimizers[name], _ = group_sharded_parallel(layer, self.optimizers[name], self.config.shard)
            return layer
        if self.world == 1:
            return layer
        unused = name == "autoencoder" and self.config.reconstruction.continuous > 0  # codes, before quantisation
        return paddle.DataParallel(layer, find_unused_parameters=unused)

    @contextlib.contextmanager
    def _alone(self, layer: Any, alone: bool) -> Iterator[None]:
        """Gradients stay in this process where `alone`: those of the step's last part bring all of them together."""
        with layer.no_sync() if alone and hasattr(layer, "no_sync") else contextlib.nullcontext():
            yield

    def _validate(self) -> None:
        with averaged(self.stage, self.averages):
            loss = self.validation.loss()
            figures, rows = self.validation.figures()
        row = {"validation_loss": loss, **{f"validation_{name}": value for name, value in figures.items()}}
        self.watcher.write({"step": self.step, **row})
        self.watcher.say("  ".join([f"step {self.step}", *(f"{name} {value:.4g}" for name, value in row.items())]))
        self.watcher.pictures(self.step, rows)
        if loss < self.best["loss"] or self.best.get("phase") != self.stage.phase:
            self.best = {"name": f"step-{self.step:07d}", "loss": loss, "phase": self.stage.phase}
            self._save(must=self.step == self.config.steps)

    def _must_stop(self, logged: bool) -> bool:
        """Whether a signal ends the run here. States that are spread over processes take all of them to be saved: they
        agree where they wait for each other anyway."""
        if self.config.shard is None:
            return self.rank == 0 and self._stop.is_set()
        if not logged:
            return False
        told = paddle.to_tensor(float(self._stop.is_set()))
        paddle.distributed.all_reduce(told, paddle.distributed.ReduceOp.MAX)
        return float(told) > 0

    def _save(self, must: bool) -> None:
        """A full disk costs this checkpoint, not the run or an earlier checkpoint; with `must` it is an error."""
        if self._saved == self.step or (self.rank != 0 and self.config.shard is None):
            return
        arrays = saving.gather(self.stage, self.optimizers, self.averages)
        if self.config.shard is not None:
            parts: List[Dict[str, Any]] = []
            paddle.distributed.all_gather_object(parts, {k: v for k, v in arrays.items() if ".optimizer/" in k})
            arrays.update({name: value for part in parts for name, value in part.items()})
        if self.rank != 0:
            return
        loss = self.best["loss"]
        state = {
            "step": self.step, "best": self.best["name"], "pending": self.watcher.pending(),
            "best_of": {**self.best, "loss": None if loss == float("inf") else loss},
        }  # fmt: skip
        try:
            self.checkpoints.write(arrays, state)
            self._saved = self.step
        except OSError as error:
            if must:
                raise OSError(f"step {self.step} cannot be saved: {error}; make room and --resume") from error
            self.watcher.say(f"step {self.step} cannot be saved, and training goes on: {error}")

    def finish(self) -> None:
        """Write the averaged weights as a model that `from_pretrained` opens."""
        if self.rank == 0:
            with averaged(self.stage, self.averages), appearing(self.out / "model") as part:
                options = {"batches": self.batches} if self.config.is_first_stage else {}
                self.stage.save(part, **options)
        if self.world > 1:
            paddle.distributed.barrier()

    def _list_skipped(self) -> None:
        """Add to `skipped.txt` what could not be used since the last time, in any process."""
        found = {int(number) for part in self._skipped for number in part.numpy().ravel() if number >= 0}
        self._skipped = []
        if self.world > 1:
            parts: List[Set[int]] = []
            paddle.distributed.all_gather_object(parts, found)
            found = set().union(*parts)
        new = sorted(found - self._found)
        self._found |= found
        if new and self.rank == 0 and self._names is not None:
            file = self.out / "skipped.txt"
            said = set(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else set()
            names = [name for name in (self._names[number] for number in new) if name not in said]
            with open(file, "a", encoding="utf-8") as lines:
                lines.writelines(f"{name}\n" for name in names)
            self.watcher.say(f"{len(said) + len(names)} pictures could not be used and were passed over; see {file}")

    def _compare(self, before: Dict[str, Any]) -> None:
        now = plain(self.config)
        kinds = ("about", *_MAY_CHANGE)
        changed = [key for key in now if key not in kinds and key != "data" and now[key] != before.get(key)]
        inner = [key for key in now["data"] if key != "workers" and now["data"][key] != before["data"].get(key)]
        if changed or inner:
            names = ", ".join([*changed, *(f"data.{key}" for key in inner)])
            raise ConfigError(f"{self.out} was begun with other values of {names}; go on with the same, or begin anew")

    @contextlib.contextmanager
    def _sigterm(self) -> Iterator[None]:
        """SIGTERM ends the run after its step. With several processes the first one saves, for all are alike."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Optional[FrameType]) -> None:
            self._stop.set()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def join() -> Tuple[int, int]:
    """Number of this process, and of all that `paddle.distributed.launch` has started."""
    world: int = paddle.distributed.get_world_size()
    if world > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()
    return paddle.distributed.get_rank(), world


def recompute_blocks(trained: paddle.nn.Layer) -> None:
    """Compute blocks again on the way back instead of keeping what they made, which takes less memory."""
    from paddle.distributed.fleet.utils import recompute

    for layer in trained.sublayers():
        if isinstance(layer, (ResnetBlock2D, Attention, Transformer2DModel)):
            layer.forward = functools.partial(recompute, layer.forward)  # type: ignore[method-assign]


def train(config: Configuration, out: Any, given: Optional[Dict[str, Any]] = None, resume: bool = False) -> Path:
    """Train as a configuration says; see `Training`. Returns the folder of the finished model."""
    return Training(config, Path(out), given, resume).run()


def evaluate(
    config: Configuration, checkpoint: Any, given: Optional[Dict[str, Any]] = None
) -> Tuple[Dict[str, float], List[List[Any]]]:
    """Figures of a checkpoint, a finished model, or the last checkpoint of a run, on the pictures of validation.

    Returns:
        The figures by name, and rows of pictures: originals and what was made.

    Raises:
        ConfigError, DataError: as `Training`, or no checkpoint.
    """
    rank, world = join()
    folder = Path(checkpoint)
    if not (folder / saving.STATE).is_file():
        last = saving.Checkpoints(folder, 1).last()
        folder = last or folder
    source, validation = open_sources(config, needs_of(config))
    if (folder / saving.STATE).is_file():
        stage = open_stage(config, given, len(getattr(source, "classes", [])))
        arrays, state = saving.read(folder)
        averages = {name: paddle.to_tensor(value) for name, value in saving.averages(arrays).items()}
        unknown = set(averages) - set(stage.trained.state_dict())
        if unknown or not averages:
            raise ConfigError(f"{folder} is of other models than {config.task} has here; give its own configuration")
        if hasattr(stage, "step"):
            stage.step = state["step"] - 1
    else:
        models = {"vqvae": str(folder)} if config.is_first_stage else {}
        config = dataclasses.replace(config, models=models, init=None if config.is_first_stage else str(folder))
        stage, averages = open_stage(config, given, len(getattr(source, "classes", []))), {}
        if hasattr(stage, "step"):
            stage.step = config.steps - 1
    with averaged(stage, averages):
        found = Validation(config, stage, validation or source, rank, world)
        loss = found.loss()
        figures, rows = found.figures()
    return {"loss": loss, **figures}, rows
