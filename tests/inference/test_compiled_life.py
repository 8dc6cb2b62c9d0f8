"""What may happen to a compiled model: it is changed, copied, saved, trained, shared, and its files go."""

import copy
import json
import pickle
import resource
import shutil
import threading

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdiffusers import CheckpointError, ClassEmbedder, LDMSuperResolutionPipeline, UNet2DModel
from ppdiffusers.inference import compile_model
from ppdiffusers.inference import compiled as compiled_module
from ppdiffusers.inference.engines import relative_error
from ppdiffusers.models.model import Model

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"
PICTURE = np.random.default_rng(0).random([8, 12, 3], np.float32)

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _cache(home, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_HOME", str(home))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    paddle.seed(0)
    folder = tmp_path_factory.mktemp("saved")
    UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def load(folder, **options):
    return UNet2DModel.from_pretrained(folder, **options)


def run(model):
    sample = np.random.default_rng(1).standard_normal([1, 3, 8, 8], np.float32)
    with paddle.no_grad():
        return model(paddle.to_tensor(sample), 7)[0].numpy()


def compiled(model):
    """After a first call: the layers are given up."""
    run(compile_model(model, "inference", "fp32"))
    assert model.__dict__["_network"].setup is not None and not hasattr(model, "down_blocks")
    return model


def test_weights_that_were_changed_in_memory_are_kept(saved, monkeypatch):
    seen = []
    monkeypatch.setattr(compiled_module, "relative_error", lambda *pair: seen.append(1) or relative_error(*pair))
    compiled(load(saved))
    seen.clear()
    for change in (
        lambda model: model.conv_out.bias.set_value(paddle.ones([3])),
        lambda model: model.load_dict({**model.state_dict(), "conv_out.bias": paddle.ones([3])}),
    ):
        model = load(saved)
        change(model)
        wanted = run(model)
        assert relative_error(wanted, run(compiled(model)))[0] < 1e-5
        assert np.array_equal(model.state_dict()["conv_out.bias"].numpy(), np.ones(3, np.float32))
    assert len(seen) == 2  # what was found right of the files is not believed of others
    compiled(load(saved))
    assert len(seen) == 2


def test_layers_come_back_with_the_config_that_they_had(saved):
    model = load(saved, norm_eps=0.5)
    wanted = run(model)
    compiled(model).state_dict()
    assert np.array_equal(run(model), wanted) and not np.allclose(wanted, run(load(saved)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_of_layers(saved, duplicate):
    twin = duplicate(compiled(load(saved)))
    assert np.array_equal(run(twin), run(load(saved)))


@pytest.mark.parametrize("from_files", [True, False])
def test_layers_come_back_in_their_order(saved, from_files):
    model = load(saved)
    names = list(model.state_dict())
    if not from_files:
        model._source = None
    assert len(compiled(model).parameters()) == len(names)
    assert list(model.state_dict()) == names and model.num_parameters() == load(saved).num_parameters()


def test_a_model_without_heavy_parts_stays_as_it_is():
    model = ClassEmbedder(4, 8)
    names = list(model.state_dict())
    assert compile_model(model, "inference", "fp32") is model
    assert list(model.state_dict()) == names and model._restore is None


def test_an_optimizer_that_was_made_before_trains_the_model(saved):
    model = load(saved)
    optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters())
    compiled(model).train()
    before = {name: weight.numpy() for name, weight in model.state_dict().items()}
    model(paddle.ones([1, 3, 8, 8]), 7)[0].square().sum().backward()
    optimizer.step()
    assert all(np.abs(model.state_dict()[name].numpy() - before[name]).max() > 0 for name in ("conv_in.weight",))


@pytest.mark.parametrize("change", [lambda model: model.to(dtype="bfloat16"), UNet2DModel.bfloat16])
def test_a_change_of_type_reaches_every_layer(saved, change):
    model = compiled(load(saved))
    change(model)
    assert {weight.dtype for weight in model.parameters()} == {paddle.bfloat16}


def test_files_that_changed_are_not_taken_for_the_models(folder, tmp_path):
    model = compiled(load(folder))
    wanted = run(model)
    other = load(folder)
    other.conv_out.bias.set_value(paddle.ones([3]))
    other.save_pretrained(folder)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="files have changed or gone since it was compiled; put them back"):
            model.save_pretrained(tmp_path / "saved")
        shutil.rmtree(folder, ignore_errors=True)
        assert np.array_equal(run(model), wanted)  # as before
    assert not (tmp_path / "saved").exists()


def test_files_are_found_from_another_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = compiled(load(folder.name))
    monkeypatch.chdir("/")
    assert np.array_equal(run(compile_model(model, "eager")), run(load(folder)))


class Line(Model):
    """Quick to trace."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self._config = {}

    def _programs(self):
        return {"_line": {"x": ([None, 3], "float32")}}

    def _line(self, x):
        return self.linear(x)


def line():
    """Whether a compiled one runs its program."""
    model = compile_model(Line(), "inference", "fp32")
    model._line(paddle.ones([2, 3]))
    return model.__dict__["_line"].setup is not None


def test_a_damaged_program_is_traced_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path))
    program = compiled_module.cached_program(Line(), "_line", Line()._programs()["_line"])
    program.file.write_bytes(program.file.read_bytes()[:-100])
    assert line() and json.loads(program.file.read_bytes())


def test_a_cache_that_cannot_be_written_keeps_nothing_back(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "file"))
    assert line() and "cannot keep programs" in caplog.text


def test_a_full_disk_leaves_nothing_and_runs_the_layers(saved, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path))
    model = compile_model(load(saved), "inference", "fp32")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        result = run(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(result, run(load(saved))) and "could not be written whole" in caplog.text
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    compiled(load(saved))


def test_threads_share_a_compiled_network(saved):
    model = compiled(load(saved))
    samples = [paddle.to_tensor(np.full([1, 3, 8 * size, 8], size, np.float32)) for size in (1, 2, 3)]

    def predict(sample):
        with paddle.no_grad():
            return model(sample, 7)[0].numpy()

    wanted, found = [predict(sample) for sample in samples], {}

    def work(i):
        found[i] = [predict(samples[i]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(got, wanted[i]) for i in range(3) for got in found[i])


def test_a_pipeline_is_compiled_again_after_it_was_saved(tmp_path):
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="inference", precision="fp32")
    pipeline.save_pretrained(tmp_path)
    assert pipeline.unet._restore is None
    pipeline(PICTURE, num_inference_steps=1)
    assert pipeline.unet.__dict__["_network"].setup.engine == "inference"


@pytest.mark.parametrize("engine", ["auto", "inference"])
def test_a_network_in_training_is_left_alone(monkeypatch, engine):
    monkeypatch.setattr(compiled_module, "WORTH_COMPILING", 1.0)
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine=engine)
    pipeline.unet.train()
    pipeline(PICTURE, num_inference_steps=1)
    assert pipeline.unet.training and pipeline.unet._restore is None and pipeline.vqvae._restore is not None


@pytest.mark.parametrize("arguments", [{"engine": "tensorflow"}, {"precision": "int3"}])
def test_an_unknown_engine_is_told_before_anything_is_read(arguments):
    with pytest.raises(ValueError, match="is unknown; use"):
        LDMSuperResolutionPipeline.from_pretrained("/no/such/folder", **arguments)
