"""Bad input ends in one clear error, and nothing is left of the target."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import sys
import zipfile

import compvis_models
import numpy as np
import pytest

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint, save_torch
from ppdiffusers.cli.main import main
from ppdiffusers.config import ConfigError
from ppdiffusers.conversion import ConversionError, bert_embedder, compvis, convert
from ppdiffusers.schedulers import DDIMScheduler


@pytest.fixture
def source(original, tmp_path):
    """A copy of a small checkpoint that a test may damage: its arrays, and a function that writes and converts it."""
    return Source(original, tmp_path, "unconditional")


class Source:
    def __init__(self, original, tmp_path, name):
        self.folder, self.target = tmp_path / "source", tmp_path / "target"
        self.folder.mkdir()
        self.config = copy.deepcopy(compvis_models.CONFIGS[name])
        self.params = self.config["params"]
        self.unet = self.params["unet_config"]["params"]
        with open_checkpoint(original(name) / "model.ckpt") as checkpoint:
            self.arrays = {key: np.array(checkpoint.read(key)) for key in checkpoint.keys()}

    def convert(self, **options):
        save_torch(self.folder / "model.ckpt", self.arrays)
        return convert(self.folder / "model.ckpt", self.target, config=self.config, **options)

    def refuses(self, message, error=ConversionError):
        with pytest.raises(error, match=message) as caught:
            self.convert()
        assert [path.name for path in self.target.parent.iterdir()] == ["source"]
        return str(caught.value)


def test_missing_unexpected_and_misshaped_tensors_in_one_error(source):
    source.params["use_ema"] = False
    del source.arrays["model.diffusion_model.out.2.bias"]
    del source.arrays["first_stage_model.encoder.mid.attn_1.q.weight"]
    source.arrays["cond_stage_model.extra"] = np.zeros(2, np.float32)
    source.arrays["first_stage_model.quantize.embedding.weight"] = np.zeros((4, 3), np.float32)
    text = source.refuses("does not fit its yaml")
    assert "missing: model.diffusion_model.out.2.bias, first_stage_model.encoder.mid.attn_1.q.weight" in text
    assert "unexpected: cond_stage_model.extra" in text
    assert "of another shape: first_stage_model.quantize.embedding.weight is [4, 3], not [16, 3]" in text


def test_an_average_that_is_not_whole(source):
    del source.arrays["model_ema.diffusion_modelout2bias"]
    source.refuses("missing: model_ema.diffusion_modelout2bias")


def test_the_option_against_averages(source, tmp_path):
    source.convert(ema=False)
    with open_checkpoint(source.target / "unet" / "diffusion_paddle_model.safetensors") as checkpoint:
        np.testing.assert_array_equal(
            checkpoint.read("conv_in.weight"), source.arrays["model.diffusion_model.input_blocks.0.0.weight"]
        )


def test_buffers_are_passed_over_and_the_schedule_is_compared(source):
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    source.arrays["betas"] = scheduler.betas.astype(np.float32)
    source.arrays["lvlb_weights"] = np.zeros(1000, np.float32)
    source.params["linear_end"] = 0.0205
    source.refuses("noise levels from beta 0.0015 to 0.0195; its yaml says 1000, from 0.0015 to 0.0205")
    source.params["linear_end"] = "195e-4"  # a text to PyYAML
    assert source.convert() == "LDMPipeline"


def test_a_scale_that_the_checkpoint_lacks(source):
    source.params["scale_by_std"] = True
    source.refuses("no scale_factor, which its yaml promises")


def change(key, value, *path):
    def apply(config):
        target = config
        for part in ("params", *path):
            target = target[part]
        target[key] = value

    apply.__name__ = f"{key}={value}"[:60]
    return apply


UNET, DD = ("unet_config", "params"), ("first_stage_config", "params", "ddconfig")


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change("use_new_attention_order", True, *UNET), "use_new_attention_order: True has no counterpart"),
        (change("dims", 3, *UNET), "UNetModel with dims: 3"),
        (change("num_head_channels", 7, *UNET), "width 64, no multiple of num_head_channels 7"),
        (change("num_head_channels", -1, *UNET), "needs num_heads or num_head_channels"),
        (change("channel_mult", [2, 4], *UNET), r"channel_mult \[2, 4\]"),
        (change("channel_mult", "1,2", *UNET), "channel_mult of UNetModel is '1,2' in the yaml; it must be a list"),
        (change("model_channels", "32", *UNET), "model_channels of UNetModel is '32'"),
        (change("attention", 3, *UNET), "unknown attention"),
        (change("use_spatial_transformer", True, *UNET), "needs context_dim"),
        (change("double_z", True, *DD), "double_z: True"),
        (change("attn_type", "linear", *DD), "attn_type 'linear'"),
        (change("tanh_out", True, *DD), "tanh_out: True"),
        (change("n_embed", "many", "first_stage_config", "params"), "n_embed of VQModelInterface is 'many'"),
        (change("target", "ldm.models.autoencoder.IdentityFirstStage", "first_stage_config"), "'IdentityFirstStage'"),
        (change("params", [1], "first_stage_config"), "params of VQModelInterface are no mapping"),
        (change("cond_stage_config", {"target": "x.FrozenCLIPEmbedder"}), "'crossattn' on 'FrozenCLIPEmbedder'"),
        (change("cond_stage_config", None), "names no target in None"),
        (change("conditioning_key", "hybrid"), None),
        (change("beta_schedule", "cosine"), "beta_schedule 'cosine'"),
        (change("parameterization", "x1"), "parameterization 'x1'"),
        (change("linear_start", "low"), "linear_start is 'low' in the yaml; it must be a number"),
        (change("scale_factor", 0.5), "scale_factor 0.5"),
        (change("unet_config", {"target": "a.UNetOther", "params": {}}), "'UNetOther' where only a UNetModel"),
        (change("model_channels", 48, *UNET), "32 groups: model_channels 48"),
        (change("ch", 48, *DD), "32 groups: ch 48"),
        (change("num_heads", 0, *UNET), None),
        (change("in_channels", -3, *UNET), "in_channels of UNetModel is -3"),
        (change("timesteps", "1000"), "timesteps is '1000'"),
        (change("ch_mult", [], *DD), "no VQModel can be built"),
        (change("image_size", None, *UNET), "image_size of UNetModel is None"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_yamls_of_what_is_not_here(apply, message):
    config = copy.deepcopy(compvis_models.CONFIGS["unconditional"])
    apply(config)
    if message is None:  # what another key makes void: no stage, no conditioning; a width of heads, no number of them
        assert compvis.build(config)[0] == "LDMPipeline"
    else:
        with pytest.raises(ConversionError, match=message):
            compvis.build(config)


def test_parts_that_make_no_pipeline(original, tmp_path):
    """The text encoder is wider than what the U-Net attends to."""
    config = copy.deepcopy(compvis_models.CONFIGS["text-large"])
    config["params"]["cond_stage_config"]["params"]["n_embed"] = 64
    with open_checkpoint(original("text-large") / "model.ckpt") as checkpoint:
        arrays = {key: np.array(checkpoint.read(key)) for key in checkpoint.keys() if not key.startswith("cond_stage")}
    table = bert_embedder.rows(compvis.build(config)[1]["bert"])
    for row in table:
        arrays["cond_stage_model." + row.theirs] = np.zeros(
            row.rule.theirs_shape(table.shapes[row.ours[0]]), np.float32
        )
    save_torch(tmp_path / "model.ckpt", arrays)
    with pytest.raises(ConversionError, match="make no LDMTextToImagePipeline: .*cross_attention_dim"):
        convert(tmp_path, tmp_path / "out", config=config, tokenizer=original("text-large") / "tokenizer")


def test_a_yaml_of_another_model(source, original):
    source.config = compvis_models.CONFIGS["super-resolution"]
    assert "of another shape: " in source.refuses("is that the one that was published with it")


def test_a_config_that_is_no_latent_diffusion(source):
    source.config = {"target": "ldm.models.autoencoder.VQModel", "params": {}}
    source.refuses("'VQModel' where only a LatentDiffusion")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def lightning_file(file, arrays):
    """Writes what Lightning does around a state dict: classes as keys, objects with states, sets, optimisers."""
    save_torch(file, arrays)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    program = entries["archive/data.pkl"]
    assert program[-2:] == b"s."
    checkpoint = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    made = checkpoint + b")\x81}(" + text("monitor") + text("val/loss") + b"ub"  # NEWOBJ, then BUILD
    config = b"comegaconf.dictconfig\nDictConfig\n)R}(" + text("_content") + made + b"ub"
    shell = b"cposix\nsystem\n(" + text("touch canary") + b"tR"
    seen = b"c__builtin__\nset\n(](K\x01K\x02etR"
    extra = b"".join(
        [
            *(text("callbacks"), b"}(", checkpoint, b"}(", text("best"), shell, b"u", b"K\x01K\x02\x86", seen, b"us"),
            *(text("hyper_parameters"), config, b"s"),
            *(text("scheduler"), b"(ilightning\nScheduler\n", b"s", text("frozen"), b"\x8f(K\x01\x90", b"s"),
        ]
    )
    entries["archive/data.pkl"] = program[:-1] + extra + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    file.write_bytes(buffer.getvalue())


def test_a_lightning_checkpoint_converts_and_runs_nothing(source, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lightning_file(source.folder / "model.ckpt", source.arrays)
    with pytest.raises(CheckpointError, match="names pytorch_lightning.*which weights do not need"):
        open_checkpoint(source.folder / "model.ckpt")
    convert(source.folder, source.target, config=source.config)
    assert not (tmp_path / "canary").exists()
    assert not any(module.startswith(("pytorch_lightning", "omegaconf")) for module in sys.modules)
    for part in ("unet", "vqvae"):
        name = f"{part}/diffusion_paddle_model.safetensors"
        assert (source.target / name).read_bytes() == (ours("unconditional") / name).read_bytes()


def test_a_foreign_object_in_the_place_of_a_tensor(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shell = b"cposix\nsystem\n(" + text("touch canary") + b"tR"
    entry = text("first_stage_model.quant_conv.bias") + shell
    program = b"\x80\x02}" + text("state_dict") + b"}(" + entry + b"us."
    with zipfile.ZipFile(source.folder / "model.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with open_checkpoint(source.folder / "model.ckpt", skip_objects=True) as checkpoint:
        with pytest.raises(CheckpointError, match="quant_conv.bias' is no tensor: it names posix.system"):
            checkpoint.read("first_stage_model.quant_conv.bias")
    with pytest.raises(CheckpointError, match="quant_conv.bias' is no tensor"):
        convert(source.folder, source.target, config=source.config)
    assert not (tmp_path / "canary").exists() and not source.target.exists()


def test_a_file_of_torch_with_lightning_objects():
    """Written by torch.save in scripts/make_reference_compvis.py."""
    file = compvis_models.GOLDEN / "lightning.ckpt"
    with pytest.raises(CheckpointError, match="ModelCheckpoint"):
        open_checkpoint(file)
    with open_checkpoint(file, skip_objects=True) as checkpoint:
        assert checkpoint.keys() == ["weight", "bias"]
        np.testing.assert_array_equal(checkpoint.read("weight"), [[0.0, 1.0], [2.0, 3.0]])


# Files and folders


def run(capsys, *arguments):
    code = main(["convert", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(original, ours, tmp_path, capsys):
    target = tmp_path / "deep" / "model"
    code, out, err = run(capsys, original("unconditional") / "model.ckpt", target, "--dtype", "float16", "--no-ema")
    assert (code, err) == (0, "") and f"{target}: LDMPipeline for ours, " in out
    code, _, err = run(capsys, original("unconditional"), target)
    assert code == 2 and f"{target} exists; name another folder, or replace it with --force" in err
    code, _, err = run(capsys, original("unconditional"), target, "--force")
    assert (code, err) == (0, "")
    name = "unet/diffusion_paddle_model.safetensors"
    assert (target / name).read_bytes() == (ours("unconditional") / name).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert oct(target.stat().st_mode)[-3:] == oct(tmp_path.joinpath("deep").stat().st_mode)[-3:]


def test_a_yaml_from_the_catalogue(original, tmp_path, capsys):
    """The published architecture: this small checkpoint does not fit it, which is said of its tensors."""
    file = original("inpainting") / "model.ckpt"
    code, _, err = run(capsys, file, tmp_path / "out", "--model", "CompVis/ldm-inpainting-big")
    assert code == 2 and "is [96, 32], not [1024, 256]" in err.replace("128, 32", "96, 32") and err.count("\n") == 1
    code, _, err = run(capsys, file, tmp_path / "out", "--model", "CompVis/ldm-super-resolution-4x-openimages")
    assert code == 2 and "no original checkpoint of CompVis/ldm-super-resolution-4x-openimages" in err
    code, _, err = run(capsys, file, tmp_path / "out", "--model", "CompVis/ldm-inpainting-bigg")
    assert code == 2 and "did you mean" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "none.ckpt", "does not exist"),
        (lambda folder: folder, "neither a model_index.json nor one .ckpt file, but 0"),
        (lambda folder: [(folder / name).touch() for name in ("a.ckpt", "b.ckpt")] and folder, "but 2"),
        (lambda folder: written(folder / "a.ckpt", b"x"), "there is no .*config.yaml: give it with --config"),
        (lambda folder: written(folder / "a.ckpt", b"hello", "{}"), 'no mapping under "model"'),
        (lambda folder: written(folder / "a.ckpt", b"hello", "model: [1"), "is not yaml"),
        (lambda folder: written(folder / "a.ckpt", b"hello", "model: !!python/name:os.system x"), "is not yaml"),
        (lambda folder: written(folder / "a.ckpt", b"hello"*99, "model: {}"), "is no weight file"),
        (lambda folder: written(folder / "a.ckpt", pickle.dumps({"a": 1}, 2), "model: {}"), "holds no tensors"),
        (lambda folder: zipped(folder / "celeba.zip"), "archive with model.ckpt: unpack it"),
    ],
)  # fmt: skip
def test_sources_that_are_none(prepare, message, tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises((ConversionError, CheckpointError), match=message):
        convert(prepare(tmp_path / "source"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def written(file, content, config=None):
    file.write_bytes(content)
    if config is not None:
        file.with_name("config.yaml").write_text(config)
    return file


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.ckpt", b"PK")
    return file


def test_a_text_model_needs_its_vocabulary(original, tmp_path):
    file = tmp_path / "alone.ckpt"
    file.write_bytes((original("text") / "model.ckpt").read_bytes())
    config = compvis_models.CONFIGS["text"]
    with pytest.raises(ConversionError, match="vocab.txt with --tokenizer"):
        convert(file, tmp_path / "out", config=config)
    with pytest.raises(ConfigError, match="holds no vocab.txt"):
        convert(file, tmp_path / "out", config=config, tokenizer=tmp_path)
    assert convert(file, tmp_path / "out", config=config, tokenizer=original("text") / "tokenizer")


def test_without_pyyaml(original, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="pip install pyyaml"):
        convert(original("unconditional"), tmp_path / "out")
    assert convert(original("unconditional"), tmp_path / "out", config=compvis_models.CONFIGS["unconditional"])


def test_folders_that_do_not_fit(ours, tmp_path):
    broken = tmp_path / "broken"
    convert(ours("unconditional"), broken)
    config = json.loads((broken / "unet" / "config.json").read_text())
    (broken / "unet" / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(ConversionError, match="UNet2DModel of its config; missing: .*resnets"):
        convert(broken, tmp_path / "out", "compvis")
    with pytest.raises(ConversionError, match="takes no yaml"):
        convert(broken, tmp_path / "out", config=tmp_path / "a.yaml")
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"}))
    with pytest.raises(ConversionError, match="names no vqvae"):
        convert(broken, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_targets_that_are_not_replaced(ours, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(ConversionError, match="not a converted model, and is not replaced"):
        convert(ours("unconditional"), mine, force=True)
    convert(ours("unconditional"), tmp_path / "model")
    for target in ("model", "model/unet/.."):
        with pytest.raises(ConversionError, match="holds the source"):
            convert(tmp_path / "model", tmp_path / target, "compvis", force=True)
    with pytest.raises(ConversionError, match="cannot convert to 'onnx'"):
        convert(tmp_path / "model", tmp_path / "out", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]
