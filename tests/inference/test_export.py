"""Exported folders: the same pipeline without layers."""

import hashlib
from pathlib import Path

import exported_folders as folders
import numpy as np
import paddle
import pytest
from exported_folders import CALL, PICTURE, agree, change, manifest
from small_models import tiny_pipeline

from ppdiffusers import (
    BertTokenizer,
    CheckpointError,
    ClassEmbedder,
    DDIMScheduler,
    DiffusionPipeline,
    LDMBertModel,
    LDMClassConditionalPipeline,
    LDMSuperResolutionPipeline,
    LDMTextToImagePipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from ppdiffusers.cli.main import main
from ppdiffusers.inference import engines as engines_module
from ppdiffusers.inference.engines import has_bfloat16
from ppdiffusers.inference.exported import Exported, ExportError

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")
ENGINES = ["onednn", "inference"]

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"
TEXT = Path(__file__).parents[1] / "pipelines" / "golden_text" / "text"


def parts(model):
    """The programs of an exported model."""
    return list(model._parts.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_gives_the_pictures_of_its_pipeline(eager, folder, engine):
    pipeline = DiffusionPipeline.from_pretrained(folder, engine=engine)
    assert type(pipeline) is LDMSuperResolutionPipeline
    assert pipeline.unet.config == eager.unet.config
    assert agree(pipeline(PICTURE, **CALL).images, eager(PICTURE, **CALL).images)
    used = [part for part in parts(pipeline.unet) + parts(pipeline.vqvae) if part.setup]
    assert {(part.setup.engine, part.setup.precision) for part in used} == {(engine, "fp32")} and len(used) == 2


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 arithmetic")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_loader_may_choose_another_precision(eager, folder, engine):
    pipeline = DiffusionPipeline.from_pretrained(folder, engine=engine, precision="bf16")
    near = pipeline(PICTURE, **CALL).images
    assert -10 * np.log10(np.mean((near - eager(PICTURE, **CALL).images) ** 2)) > 40
    assert parts(pipeline.unet)[0].setup.precision == "bf16"


def test_the_manifest_describes_every_file(folder):
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    described = manifest(folder)
    assert found == {*described["files"], "deployment.json"}
    for name, file in described["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    assert described["paddle"] == paddle.__version__ and described["precision"] == "fp32"
    network = described["components"]["unet"]["parts"]["network"]
    assert list(network["inputs"]) == ["sample", "temb"]
    assert network["inputs"]["sample"] == {"shape": [None, 6, None, None], "dtype": "float32"}
    Exported(folder).verify()


def test_every_weight_is_there_once_and_most_layers_are_never_built(eager, folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    left = sum(model.num_parameters() for model in (pipeline.unet, pipeline.vqvae))
    assert not hasattr(pipeline.unet, "down_blocks") and not hasattr(pipeline.vqvae, "decoder")
    programs = sum(file.stat().st_size for file in folder.rglob("*.pdiparams"))
    weights = 4 * sum(model.num_parameters() for model in (eager.unet, eager.vqvae))
    assert weights <= programs + 4 * left < 1.01 * weights


@pytest.fixture(scope="module")
def small():
    """Parts of pipelines that attend to a condition."""
    paddle.seed(0)
    models = {
        "unet": UNet2DConditionModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16, 16), layers_per_block=1,
            norm_num_groups=8, attention_head_dim=4, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        "bert": LDMBertModel(
            vocab_size=20, max_position_embeddings=12, encoder_layers=2, encoder_ffn_dim=32, encoder_attention_heads=2,
            head_dim=8, d_model=16,
        ),
        "class_embedder": ClassEmbedder(4, 16),
    }  # fmt: skip
    for model in models.values():
        model.eval()
    return {**models, "vqvae": tiny_pipeline().vqvae, "scheduler": DDIMScheduler(clip_sample=False)}


def test_text_to_image(small, tmp_path):
    models = {name: small[name] for name in ("vqvae", "bert", "unet", "scheduler")}
    tokenizer = BertTokenizer(TEXT / "tokenizer")
    LDMTextToImagePipeline(**models, tokenizer=tokenizer).export(tmp_path / "exported")
    assert (tmp_path / "exported" / "tokenizer" / "tokenizer.json").is_file()
    assert DiffusionPipeline.from_pretrained(tmp_path / "exported").tokenizer.do_lower_case
    eager = LDMTextToImagePipeline(**models, tokenizer=Letters()).compile("eager")
    loaded = DiffusionPipeline.from_pretrained(
        tmp_path / "exported", "float32", "inference", "fp32", tokenizer=Letters()
    )
    call = {"prompt": ["a fox", "two foxes"], "guidance_scale": 3.0, **CALL}
    assert agree(loaded(**call).images, eager(**call).images)
    assert all(part.setup for name in ("unet", "bert") for part in parts(loaded.components[name]))
    assert loaded.bert.num_parameters() == 0


def test_a_component_without_programs_is_saved_as_always(small, tmp_path):
    models = {name: small[name] for name in ("vqvae", "class_embedder", "unet", "scheduler")}
    eager = LDMClassConditionalPipeline(**models).compile("eager")
    eager.export(tmp_path / "exported")
    assert set(manifest(tmp_path / "exported")["components"]) == {"vqvae", "unet"}
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "exported", engine="inference", precision="fp32")
    call = {"class_labels": [1, 2], "height": 24, "width": 16, **CALL}
    assert agree(loaded(**call).images, eager(**call).images)


class Letters:
    """A tokenizer that numbers letters; paddlenlp's, which the folder is for, need not be installed."""

    def __call__(self, texts, padding, max_length, truncation):
        rows = [[2] + [5 + ord(letter) % 15 for letter in text] + [3] for text in texts]
        return {"input_ids": [(row + [0] * max_length)[:max_length] for row in rows]}


def test_exporting_a_compiled_pipeline_leaves_it_compiled(tmp_path):
    pipeline = tiny_pipeline().compile("inference", "fp32")
    pipeline.unet.train()  # programs are of the other mode
    wanted = pipeline(PICTURE, **CALL).images
    pipeline.export(tmp_path / "exported", "fp32")
    assert pipeline._compiled["unet"].describe() == {"network": "Paddle Inference (fp32)"} and pipeline.unet.training
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "exported", engine="inference")
    assert agree(loaded(PICTURE, **CALL).images, wanted)
    assert np.array_equal(pipeline(PICTURE, **CALL).images, wanted)


def test_engines_can_be_changed_but_there_are_no_layers(folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert pipeline.compile("inference", "fp32").unet._ways[0].engine == "inference"
    for refused in (
        lambda: DiffusionPipeline.from_pretrained(folder, engine="eager"),
        lambda: pipeline.compile("eager"),
        lambda: pipeline.save_pretrained(tmp_path / "saved"),
        lambda: pipeline.export(tmp_path / "again"),
        lambda: pipeline.unet.train(),
        lambda: DiffusionPipeline.from_pretrained(folder, paddle_dtype="float16"),
    ):
        with pytest.raises(ExportError, match="load the pipeline that was exported|choose their precision"):
            refused()
    assert pipeline.to("cpu") is pipeline and parts(pipeline.unet)
    with pytest.raises(CheckpointError, match="open the whole folder with DiffusionPipeline"):
        UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert not (tmp_path / "saved").exists() and not (tmp_path / "again").exists()


def test_a_component_may_be_replaced_when_the_folder_is_loaded(eager, folder):
    pipeline = DiffusionPipeline.from_pretrained(folder, engine="inference", precision="fp32", unet=eager.unet)
    assert pipeline.unet is eager.unet and parts(pipeline.vqvae)
    assert agree(pipeline(PICTURE, **CALL).images, eager(PICTURE, **CALL).images)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (folders.newer_format, "has the format 2, and this ppdiffusers reads 1"),
        (folders.other_paddle, r"exported by paddle 3.2.2, and this is .* install paddlepaddle==3.2.\*"),
        (folders.foreign_path, "which is not in its folder"),
        (folders.no_components, "no whole manifest"),
        (folders.unknown_layer, "no whole manifest"),
        (folders.other_inputs, "export the pipeline again"),
        (folders.no_json, "is not JSON"),
        (folders.missing_file, "lacks unet/network.pdiparams; copy"),
        (folders.cut_file, "has 5 bytes and was exported with"),
    ],
)
def test_damage_is_one_clear_error(copy, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        DiffusionPipeline.from_pretrained(copy)


def test_left_over_weights_are_loaded_strictly(copy):
    components = manifest(copy)["components"]
    components["unet"]["replaced"].remove("conv_in")
    change(copy, components=components)
    with pytest.raises(CheckpointError, match="missing: conv_in.weight, conv_in.bias"):
        DiffusionPipeline.from_pretrained(copy)


def test_changed_parameters_are_found_by_digest_and_by_what_they_compute(copy, caplog):
    folders.flip(copy / "vqvae" / "to_pixels.pdiparams")
    with pytest.raises(ExportError, match="to_pixels.pdiparams is not what was exported"):
        Exported(copy).verify()
    pipeline = DiffusionPipeline.from_pretrained(copy, engine="inference", precision="fp32")
    with pytest.raises(ExportError, match="is wrong by .* load the pipeline that was exported"):
        pipeline(PICTURE, **CALL)


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 arithmetic")
def test_a_way_that_is_wrong_gives_way_to_the_next(folder, monkeypatch, caplog):
    monkeypatch.setitem(engines_module.TOLERANCES, "bf16", (0.0, 0.0))
    pipeline = DiffusionPipeline.from_pretrained(folder, engine="inference", precision="bf16")
    pipeline(PICTURE, **CALL)
    assert parts(pipeline.unet)[0].setup.precision == "fp32" and "is wrong by" in caplog.text


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(engines_module, "relative_error", lambda *_: (1.0, 1.0))
    with pytest.raises(ExportError, match="is wrong by 1"):
        tiny_pipeline().export(tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(eager, tmp_path):
    half = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, paddle_dtype="float16", engine="eager")
    with pytest.raises(ExportError, match="the vqvae is float16, .* load the pipeline without paddle_dtype"):
        half.export(tmp_path / "half")
    text = LDMTextToImagePipeline.from_pretrained(TEXT, tokenizer=Letters())
    with pytest.raises(ExportError, match="the tokenizer, a Letters, has no save_pretrained"):
        text.export(tmp_path / "text")
    with pytest.raises(ValueError, match="precision 'int3' is unknown"):
        eager.export(tmp_path / "int3", precision="int3")
    assert not list(tmp_path.iterdir())


def test_only_an_exported_folder_is_replaced(copy, tmp_path):
    pipeline = tiny_pipeline()
    with pytest.raises(ExportError, match="exists; name another folder, or replace it"):
        pipeline.export(copy)
    (tmp_path / "photos").mkdir()
    with pytest.raises(ExportError, match="is no exported pipeline, and is not replaced"):
        pipeline.export(tmp_path / "photos", force=True)
    (copy / "unet" / "network.json").unlink()
    pipeline.export(copy, force=True)
    Exported(copy).verify()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy", "photos"]


def test_the_command(tmp_path, capsys):
    target = str(tmp_path / "exported")
    assert main(["export", EMBEDDED, target, "--precision", "bf16"]) == 0
    assert "LDMSuperResolutionPipeline for deployment, 15 MB" in capsys.readouterr().out
    assert manifest(tmp_path / "exported")["precision"] == "bf16"
    assert main(["export", EMBEDDED, target]) == 2
    assert "exists; name another folder" in capsys.readouterr().err


def test_bf16_at_export_is_a_wish_where_the_cpu_has_none(copy, monkeypatch):
    change(copy, precision="bf16")
    monkeypatch.setattr("ppdiffusers.inference.engines.has_bfloat16", lambda: False)
    pipeline = DiffusionPipeline.from_pretrained(copy)
    assert {way.precision for way in pipeline.unet._ways} == {"fp32"}
