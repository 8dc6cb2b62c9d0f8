"""The text-to-image pipeline against diffusers' pictures, and beyond where diffusers is wrong."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import ppdiffusers
from ppdiffusers import BertTokenizer, DiffusionPipeline, Generator, LDMTextToImagePipeline, VQModel
from ppdiffusers.cli.main import main
from ppdiffusers.tokenizer import tokenise

GOLDEN = Path(__file__).parent / "golden_text"
REFERENCE = np.load(GOLDEN / "text.npz")
PROMPTS = REFERENCE["prompts"].tolist()
PLMS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
QUICK = dict(num_inference_steps=2, generator=0)


class GoldenTokenizer:
    """Called as paddlenlp's and transformers' are; knows the reference's prompts, and numbers other texts' letters."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts, padding, max_length, truncation):
        assert padding == "max_length" and truncation is True
        self.calls.append(texts)
        known = dict(zip(PROMPTS, REFERENCE["ids"]))
        return {"input_ids": [known.get(text, self.letters(text, max_length)) for text in texts]}

    @staticmethod
    def letters(text, length):
        return ([2] + [5 + ord(letter) % 15 for letter in text[: length - 2]] + [3] + [0] * length)[:length]


@pytest.fixture
def tokenizer():
    return GoldenTokenizer()


@pytest.fixture(scope="module")
def loaded():
    return LDMTextToImagePipeline.from_pretrained(GOLDEN / "text")


@pytest.fixture
def pipeline(loaded, tokenizer):
    return LDMTextToImagePipeline(**{**loaded.components, "tokenizer": tokenizer})


@pytest.fixture
def unet_calls(pipeline, monkeypatch):
    calls, forward = [], pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda x, t, c: (calls.append((x.numpy(), c.numpy())), forward(x, t, c))[1]
    )
    return calls


def arrays(images):
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.parametrize(
    "name, scheduler, config",
    [
        ("ddim", "DDIMScheduler", {}),
        ("ddim-v", "DDIMScheduler", {"prediction_type": "v_prediction"}),
        ("pndm", "PNDMScheduler", PLMS),
    ],
)
def test_a_folder_saved_by_diffusers_gives_diffusers_pictures(pipeline, name, scheduler, config):
    base = {} if config is PLMS else pipeline.scheduler.config
    pipeline.scheduler = getattr(ppdiffusers, scheduler).from_config(base, **config)
    seen, decode = [], pipeline.decode_latents
    pipeline.decode_latents = lambda latents: (seen.append(latents.numpy()), decode(latents))[1]
    images = pipeline(PROMPTS[:2], num_inference_steps=20, guidance_scale=6, generator=Generator(42)).images
    reference = REFERENCE[f"{name}/latents"]
    assert np.abs(seen[0] - reference).max() < 1e-4 * np.abs(reference).max()
    assert (np.abs(arrays(images) - REFERENCE[f"{name}/pictures"]) <= 1).mean() >= 0.999


def test_one_batch_a_step_holds_both_halves_of_guidance(pipeline, unet_calls, tokenizer):
    pipeline(PROMPTS[:2], guidance_scale=6, **QUICK)
    assert [call[0].shape[0] for call in unet_calls] == [4, 4] and tokenizer.calls == [["", ""] + PROMPTS[:2]]
    sample, condition = unet_calls[0]
    np.testing.assert_array_equal(sample[:2], sample[2:])
    np.testing.assert_array_equal(condition[0], condition[1])
    unet_calls.clear()
    pipeline(PROMPTS[:2], **QUICK)
    assert [call[0].shape[0] for call in unet_calls] == [2, 2]


def test_guidance_is_the_formula(pipeline, monkeypatch):
    """With a unet that returns the mean of its condition, the prediction can be worked out by hand."""
    pictures = []

    def forward(sample, timestep, condition):
        return (paddle.zeros_like(sample) + condition.mean(axis=[1, 2]).reshape([-1, 1, 1, 1]),)

    monkeypatch.setattr(pipeline.unet, "forward", forward)
    monkeypatch.setattr(pipeline.scheduler, "step", lambda prediction, *a, **k: pictures.append(prediction.numpy()))
    ids = paddle.to_tensor(REFERENCE["ids"].astype(np.int64))
    prompt, empty = (float(pipeline.bert(ids[i : i + 1])[0].mean()) for i in (0, 2))
    for scale, expected in ((1, prompt), (6, empty + 6 * (prompt - empty)), (0, empty)):
        with pytest.raises(AttributeError):  # the stub of the scheduler returns nothing
            pipeline(PROMPTS[0], guidance_scale=scale, **QUICK)
        np.testing.assert_allclose(pictures.pop(), expected, rtol=1e-4, atol=1e-6)


def test_negative_prompts(pipeline):
    def call(negative):
        return pipeline(PROMPTS[:2], guidance_scale=6, negative_prompt=negative, output_type="np", **QUICK).images

    none, one, each = call(None), call("blurry"), call(["", "blurry"])
    np.testing.assert_array_equal(none, call(""))
    assert np.abs(none - one).max() > 0.01
    np.testing.assert_allclose(each[0], none[0], atol=1e-4)
    np.testing.assert_allclose(each[1], one[1], atol=1e-4)
    with pytest.warns(UserWarning, match="negative_prompt"):
        pipeline(PROMPTS[0], negative_prompt="blurry", **QUICK)


@pytest.mark.parametrize("eta", [0, 1])
def test_four_seeds_at_once_are_four_calls(pipeline, eta):
    options = dict(num_inference_steps=3, guidance_scale=6, eta=eta)
    prompts = [PROMPTS[0], PROMPTS[1], "", PROMPTS[0]]
    batch = pipeline(prompts, generator=[1, 2, 3, 4], **options).images
    for seed, (prompt, image) in enumerate(zip(prompts, batch), 1):
        alone = pipeline(prompt, generator=seed, **options).images
        assert np.abs(arrays([image]) - arrays(alone)).max() <= 1
    assert np.abs(arrays(batch[:1]) - arrays(batch[3:])).max() > 1


def test_images_of_one_prompt_are_neighbours_and_each_seed_makes_its_picture_alone(pipeline):
    options = dict(num_inference_steps=3, guidance_scale=6, eta=0.5)
    batch = pipeline(PROMPTS[:2], num_images_per_prompt=2, generator=[1, 2, 3, 4], **options).images
    for i, image in enumerate(batch):
        alone = pipeline(PROMPTS[i // 2], generator=i + 1, **options).images[0]
        assert np.abs(arrays([image]) - arrays([alone])).max() <= 1


@pytest.mark.parametrize("eta", [0, 1])
def test_the_seed_fixes_the_picture_at_every_eta(pipeline, eta):
    def call(seed):
        return pipeline(PROMPTS[0], num_inference_steps=3, eta=eta, generator=seed, output_type="np").images

    np.testing.assert_array_equal(call(5), call(5))
    assert np.abs(call(5) - call(6)).max() > 0.01


@pytest.mark.parametrize("size, latents", [((8, 8), (2, 2)), ((72, 40), (10, 6)), ((64, 128), (8, 16))])
def test_every_multiple_of_eight_is_a_size(pipeline, unet_calls, size, latents):
    height, width = size
    image = pipeline(PROMPTS[0], height=height, width=width, **QUICK).images[0]
    assert image.size == (width, height) and unet_calls[0][0].shape == (1, 4, *latents)


def test_the_margin_is_cut_off_all_around(pipeline):
    options = dict(height=72, width=40, **QUICK)
    whole = pipeline.decode_latents(pipeline(PROMPTS[0], output_type="latent", **options).images)
    cut = pipeline(PROMPTS[0], output_type="np", **options).images
    np.testing.assert_array_equal(cut, whole[:, 4:76, 4:44])


def test_without_a_size_the_trained_one(pipeline):
    assert pipeline(PROMPTS[0], **QUICK).images[0].size == (64, 64)
    assert pipeline(PROMPTS[0], width=40, **QUICK).images[0].size == (40, 64)


@pytest.mark.parametrize("name", ["LMSDiscreteScheduler", "EulerDiscreteScheduler"])
def test_latents_are_scaled_as_the_scheduler_asks(pipeline, unet_calls, name):
    """diffusers' text pipeline leaves both scalings out."""
    pipeline.scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config)
    pipeline(PROMPTS[0], num_inference_steps=3, generator=9)
    noise = Generator(9).randn([1, 4, 8, 8])
    assert pipeline.scheduler.init_noise_sigma > 2 and abs(unet_calls[0][0].std() - noise.std()) < 0.1


def test_a_vq_first_stage_decodes_unscaled_latents(pipeline):
    config = dict(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[4, 4], norm_num_groups=4, latent_channels=4, num_vq_embeddings=8,
    )  # fmt: skip
    vqvae = VQModel(**config)
    vqvae.eval()
    other = LDMTextToImagePipeline(**{**pipeline.components, "vqvae": vqvae})
    latents = other(PROMPTS[0], output_type="latent", **QUICK).images
    image = other(PROMPTS[0], output_type="np", **QUICK).images
    assert image.shape == (1, 16, 16, 3)
    expected = vqvae.decode(latents)[0].numpy().transpose(0, 2, 3, 1) / 2 + 0.5
    np.testing.assert_allclose(image, expected.clip(0, 1), atol=1e-6)


def test_outputs_callback_and_stream(pipeline):
    options = dict(num_inference_steps=3, generator=0)
    array = pipeline(PROMPTS[0], output_type="np", **options).images
    tensor = pipeline(PROMPTS[0], output_type="pd", return_dict=False, **options)[0]
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(0, 3, 1, 2))
    steps = list(pipeline.stream(PROMPTS[0], output_type="np", **options))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    np.testing.assert_array_equal(steps[-1].output.images, array)
    given = pipeline(PROMPTS[0], num_inference_steps=3, output_type="np", latents=Generator(0).randn([1, 4, 8, 8]))
    np.testing.assert_array_equal(given.images, array)

    def callback(pipe, step, timestep, tensors):
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(PROMPTS[0], callback_on_step_end=callback, output_type="np", **options).images
    np.testing.assert_array_equal(changed, pipeline.decode_latents(paddle.zeros([1, 4, 8, 8])))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompt=[]), "empty list; give"),
        (dict(prompt=None), "NoneType"),
        (dict(prompt=7), "int"),
        (dict(prompt=["a", 7]), "int"),
        (dict(prompt=b"a"), "bytes"),
        (dict(prompt="a" * 40_000_000), "40.0 MB"),
        (dict(height=100), "100.*96 or 104"),
        (dict(width=0), "width"),
        (dict(width=-8), "-8"),
        (dict(height=64.0), "64.0"),
        (dict(guidance_scale="6"), "guidance_scale"),
        (dict(guidance_scale=float("nan")), "nan"),
        (dict(negative_prompt=["a", "b"]), "2 texts for 1"),
        (dict(negative_prompt=3), "negative_prompt"),
        (dict(num_images_per_prompt=0), "num_images_per_prompt"),
        (dict(num_inference_steps=0), "num_inference_steps 0 .*at least one"),
        (dict(num_inference_steps=-5), "num_inference_steps -5 .*at least one"),
        (dict(num_inference_steps=1001), "1001 .* the 1000 .*fewer"),
        (dict(num_inference_steps="20"), "'20'"),
        (dict(eta=1.5), "1.5"),
        (dict(eta="1"), "'1'"),
        (dict(output_type="jpeg"), "jpeg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.zeros((1, 4, 7, 8), np.float32)), r"\[1, 4, 8, 8\]"),
        (dict(latents=np.full((1, 4, 8, 8), np.nan, np.float32)), "NaN.*finite"),
        (dict(latents=[[1, 2], [3]]), "latents must be.*list"),
        (dict(negative_promt="a"), "negative_promt"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline(**{"prompt": "a", "num_inference_steps": 1, "guidance_scale": 6, **arguments})


@pytest.mark.parametrize("prediction_type", ["foo", "v-prediction", None])
def test_a_scheduler_of_an_unknown_prediction_type(loaded, tmp_path, prediction_type):
    message = f"prediction_type {prediction_type!r} .*one of epsilon, sample, v_prediction"
    with pytest.raises(ValueError, match=message):
        loaded.scheduler.from_config(loaded.scheduler.config, prediction_type=prediction_type)
    loaded.save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": prediction_type}))
    with pytest.raises(ValueError, match=message):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_components_must_fit(loaded, tokenizer):
    for wrong in ({"tokenizer": "vocab.txt"}, {"vqvae": loaded.unet}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            LDMTextToImagePipeline(**{**loaded.components, **wrong})
    narrow = ppdiffusers.LDMBertModel.from_config(loaded.bert.config, d_model=8)
    with pytest.raises(ValueError, match="16.*8"):
        LDMTextToImagePipeline(**{**loaded.components, "bert": narrow})
    pipeline = LDMTextToImagePipeline(**{**loaded.components, "tokenizer": lambda texts, **options: texts})
    with pytest.raises(TypeError, match="input_ids"):
        pipeline("a", **QUICK)


@pytest.mark.parametrize(
    "bert_entry, tokenizer_entry",
    [
        (["latent_diffusion", "LDMBertModel"], ["paddlenlp.transformers", "BertTokenizer"]),
        (["ppdiffusers", "LDMBertModel"], ["transformers", "BertTokenizerFast"]),
    ],
)
def test_saved_and_loaded_without_paddlenlp(pipeline, loaded, tmp_path, bert_entry, tokenizer_entry):
    loaded.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["tokenizer"] == ["ppdiffusers", "BertTokenizer"]
    for file in (GOLDEN / "text" / "tokenizer").iterdir():
        assert (tmp_path / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    index.update(bert=bert_entry, tokenizer=tokenizer_entry)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is LDMTextToImagePipeline and isinstance(again.tokenizer, BertTokenizer)
    again.tokenizer = pipeline.tokenizer
    results = [p(PROMPTS[0], output_type="np", **QUICK).images for p in (pipeline, again)]
    np.testing.assert_array_equal(*results)


def test_foreign_tokenizers_are_refused(tmp_path):
    shutil.copytree(GOLDEN / "text", tmp_path / "p")
    index = json.loads((tmp_path / "p" / "model_index.json").read_text())
    for entry in (["os", "BertTokenizer"], ["transformers", "AutoTokenizer"], ["ppdiffusers.tokenizer", "shutil"]):
        (tmp_path / "p" / "model_index.json").write_text(json.dumps({**index, "tokenizer": entry}))
        with pytest.raises(ValueError, match="not loaded"):
            DiffusionPipeline.from_pretrained(tmp_path / "p")


def test_a_tokenizer_without_a_vocabulary(tmp_path):
    with pytest.raises(ValueError, match="vocab.txt"):
        BertTokenizer.from_pretrained(tmp_path)


def test_without_the_tokenizers_library_one_line_says_so(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="tokenizers") as raised:
        LDMTextToImagePipeline(**{**loaded.components, "tokenizer": BertTokenizer(GOLDEN / "text" / "tokenizer")})("a")
    assert "\n" not in str(raised.value)


def test_the_references_token_numbers():
    check_tokens(BertTokenizer.from_pretrained(GOLDEN / "text", subfolder="tokenizer"))


def test_paddlenlps_tokenizer_may_be_passed(tmp_path):
    try:
        from paddlenlp.transformers import BertTokenizer as Theirs
    except ImportError:
        pytest.skip("paddlenlp is not installed")
    ours = BertTokenizer.from_pretrained(GOLDEN / "text", subfolder="tokenizer")
    tokens = sorted(ours.get_vocab(), key=ours.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    check_tokens(Theirs(str(tmp_path / "vocab.txt"), do_lower_case=True))


def check_tokens(tokenizer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids = tokenise(tokenizer, PROMPTS, 77)
    np.testing.assert_array_equal(ids, REFERENCE["ids"])
    cuts = [str(w.message) for w in caught if "cut off" in str(w.message)]
    assert len(cuts) == 1 and "longer than the 77" in cuts[0] and cuts[0].endswith("the lake squirrel'"), cuts
    assert ids.dtype == np.int64 and ids.shape == (4, 77)


@pytest.fixture
def folder(loaded, tmp_path):
    loaded.save_pretrained(tmp_path / "model")
    return tmp_path


def generate(folder, *arguments):
    return main(["generate", PROMPTS[0], "--model", str(folder / "model"), "--steps", "2", *map(str, arguments)])


def test_the_command(folder, capsys):
    options = ["--width", 40, "--height", 72, "--negative", "blürry 松", "--guidance", 4]
    assert generate(folder, "-o", folder / "a.png", "--count", 2, "--seed", 5, *options) == 0
    assert "40x72, seed 5" in capsys.readouterr().out
    with Image.open(folder / "a-2.png") as image:
        assert image.size == (40, 72)
        text = {key.partition(":")[2]: value for key, value in image.text.items()}
        second = np.asarray(image)
    assert text["prompt"] == PROMPTS[0] and text["negative_prompt"] == "blürry 松"
    assert text["seed"] == "6" and text["guidance"] == "4.0" and text["steps"] == "2"
    assert generate(folder, "-o", folder / "alone.png", "--seed", 6, *options) == 0
    with Image.open(folder / "alone.png") as image:
        np.testing.assert_array_equal(np.asarray(image), second)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "out.txt"], "picture format"),
        (["-o", "a.png", "--count", "0"], "count"),
        (["-o", "a.png", "--width", "100"], "multiple of 8"),
        (["-o", "a.png", "--seed", str(2**64)], "seed"),
    ],
)
def test_errors_of_the_command_are_one_line(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    assert generate(folder, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ppdiffusers: error: ") and message in lines[0]
