"""Idioms of code for ppdiffusers 0.29 and for diffusers' latent diffusion, and what becomes of each here.

Taken from the two projects' documents, examples and tests. Each runs by itself, in an empty folder, with these names:

    paddle, np, PIL, ppdiffusers     the modules
    pipe, sr, ldm                    text to image, super-resolution and unconditional pipelines of small models
    "text2im", "superres", "uncond"  the folders that they are saved in
    unet, vae, vqvae, bert, scheduler, tokenizer   components of `pipe` (vqvae: that of `sr`)
    prompt, image, x, noise, context     a text, a PIL image, `[2, C, H, W]` tensors for `unet`, and its condition

A verdict says why an idiom raises, or that it is `PENDING`: to be made to run.
"""

from __future__ import annotations

PENDING = "pending"

IDIOMS: list[tuple[str, str | None]] = []


def runs(*idioms: str) -> None:
    IDIOMS.extend((idiom, None) for idiom in idioms)


def raises(why: str, *idioms: str) -> None:
    IDIOMS.extend((idiom, why) for idiom in idioms)


# Imports.
runs(
    "from ppdiffusers import DiffusionPipeline, LDMTextToImagePipeline, LDMSuperResolutionPipeline, LDMPipeline",
    "from ppdiffusers import AutoencoderKL, VQModel, UNet2DModel, UNet2DConditionModel, LDMBertModel",
    "from ppdiffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler, LMSDiscreteScheduler",
    "from ppdiffusers import EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler",
    "from ppdiffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler",
    "from ppdiffusers import DEISMultistepScheduler, LCMScheduler, DDIMInverseScheduler",
    "from ppdiffusers import DDIMPipeline, DDPMPipeline, PNDMPipeline, ImagePipelineOutput",
    "from ppdiffusers.utils import load_image, make_image_grid, BaseOutput, logging, deprecate",
    "from ppdiffusers.utils import PIL_INTERPOLATION, floats_tensor, load_image",
    "from ppdiffusers.utils.testing_utils import enable_full_determinism, load_numpy; enable_full_determinism()",
    "from ppdiffusers.utils import check_min_version; check_min_version('0.16.1')",
    "from ppdiffusers.utils.import_utils import is_ppxformers_available; assert not is_ppxformers_available()",
    "from ppdiffusers.utils import randn_tensor; assert randn_tensor((1, 4, 8, 8)).shape == [1, 4, 8, 8]",
    "from ppdiffusers.utils.paddle_utils import randn_tensor",
    "logger = ppdiffusers.utils.logging.get_logger(__name__); logger.info('step')",
    "from ppdiffusers.training_utils import EMAModel, set_seed, compute_snr",
    "from ppdiffusers.training_utils import freeze_params; freeze_params(vae.parameters())",
    "from ppdiffusers.image_processor import VaeImageProcessor",
    "from ppdiffusers.optimization import get_scheduler",
    "from ppdiffusers.configuration_utils import ConfigMixin, register_to_config, FrozenDict",
    "from ppdiffusers.schedulers import DDIMScheduler, KarrasDiffusionSchedulers",
    "from ppdiffusers.schedulers.scheduling_ddim import DDIMScheduler",
    "from ppdiffusers.schedulers.scheduling_utils import SchedulerMixin; assert isinstance(scheduler, SchedulerMixin)",
    "from ppdiffusers.pipelines.latent_diffusion import LDMBertConfig, LDMBertModel",
    "from ppdiffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel",
    "from ppdiffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput",
    "from ppdiffusers.transformers import BertTokenizer, AutoTokenizer",
    "from ppdiffusers.models import AutoencoderKL, UNet2DConditionModel",
    "from ppdiffusers.models.unet_2d_condition import UNet2DConditionModel",
    "from ppdiffusers.models.vq_model import VQModel",
)
runs(
    "from ppdiffusers.models.modeling_utils import ModelMixin; assert isinstance(unet, ModelMixin)",
    "from ppdiffusers.models.vae import DiagonalGaussianDistribution",
)
runs(
    "from ppdiffusers import AutoPipelineForText2Image\npipe = AutoPipelineForText2Image.from_pretrained('text2im')",
    "pipe = ppdiffusers.AutoPipelineForText2Image.from_pipe(pipe); assert isinstance(pipe, LDMTextToImagePipeline)",
    "from ppdiffusers import AutoPipelineForInpainting",
)
raises(
    "other models: only latent diffusion as published by CompVis is here",
    "from ppdiffusers import StableDiffusionPipeline",
    "from ppdiffusers import UViTModel_T2I",
    "from ppdiffusers import VQDiffusionPipeline",
    "from ppdiffusers.loaders import LoraLoaderMixin",
)

# Loading and saving pipelines.
runs(
    "pipe = LDMTextToImagePipeline.from_pretrained('text2im')",
    "pipe = DiffusionPipeline.from_pretrained('text2im')",
    "pipe = LDMSuperResolutionPipeline.from_pretrained('superres')",
    "pipe = DiffusionPipeline.from_pretrained('text2im', paddle_dtype=paddle.float16)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', paddle_dtype='float16')",
    "pipe = DiffusionPipeline.from_pretrained('text2im', torch_dtype='float16'); assert pipe.dtype == paddle.float16",
    "pipe = DiffusionPipeline.from_pretrained('text2im', dtype=paddle.bfloat16)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', local_files_only=True)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', cache_dir='cache')",
    "pipe = DiffusionPipeline.from_pretrained('text2im', scheduler=PNDMScheduler(skip_prk_steps=True))",
    "unet = UNet2DConditionModel.from_pretrained('text2im', subfolder='unet')\n"
    "pipe = DiffusionPipeline.from_pretrained('text2im', unet=unet); assert pipe.unet is unet",
    "pipe.save_pretrained('saved'); DiffusionPipeline.from_pretrained('saved')",
    "pipe.save_pretrained('saved', safe_serialization=True)",
    "pipe.save_pretrained('saved', safe_serialization=False)",
    "pipe = LDMTextToImagePipeline(vqvae=vae, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=scheduler)",
    "pipe = LDMTextToImagePipeline(**pipe.components)",
    "assert set(pipe.components) == {'vqvae', 'bert', 'tokenizer', 'unet', 'scheduler'}",
    "assert pipe.config._class_name == 'LDMTextToImagePipeline'",
)
runs(
    "pipe = DiffusionPipeline.from_pretrained('text2im', use_safetensors=True)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', use_safetensors=None, low_cpu_mem_usage=False)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', revision='main')",
    "pipe = DiffusionPipeline.from_pretrained('text2im', resume_download=False, force_download=False)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', device_map=None)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', safety_checker=None, requires_safety_checker=False)",
)
raises(
    PENDING,
    "pipe.save_pretrained('saved', variant='fp16'); DiffusionPipeline.from_pretrained('saved', variant='fp16')",
    "pipe.save_pretrained('saved', to_diffusers=True)",
    "pipe.save_pretrained('saved', max_shard_size='100KB')",
)
raises(
    "other sources of models: `model_zoo` names or folders are taken",
    "pipe = DiffusionPipeline.from_pretrained('text2im', from_hf_hub=True)",
    "pipe = DiffusionPipeline.from_pretrained('text2im', from_aistudio=True)",
)
raises("code of a model's folder is never run", "DiffusionPipeline.from_pretrained('text2im', custom_pipeline='mine')")

# Loading and saving models, schedulers, tokenizers.
runs(
    "vae = AutoencoderKL.from_pretrained('text2im', subfolder='vqvae')",
    "vae = AutoencoderKL.from_pretrained('text2im/vqvae')",
    "unet = UNet2DConditionModel.from_pretrained('text2im', subfolder='unet', paddle_dtype=paddle.float16)",
    "bert = LDMBertModel.from_pretrained('text2im', subfolder='bert')",
    "unet = UNet2DConditionModel.from_config('text2im/unet')",
    "unet = UNet2DConditionModel.from_config(unet.config)",
    "config = UNet2DConditionModel.load_config('text2im/unet'); assert config['in_channels'] == 4",
    "config = LDMBertConfig(vocab_size=9, d_model=8, encoder_layers=1, encoder_ffn_dim=8, encoder_attention_heads=1)\n"
    "text_encoder = LDMBertModel(config)",
    "unet.save_pretrained('a'); UNet2DConditionModel.from_pretrained('a')",
    "unet.save_config('a')",
    "scheduler = DDIMScheduler.from_pretrained('text2im', subfolder='scheduler')",
    "scheduler = DDIMScheduler.from_config('text2im/scheduler')",
    "scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)",
    "pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)",
    "pipe.scheduler = HeunDiscreteScheduler.from_config(dict(pipe.scheduler.config))",
    "scheduler.save_pretrained('s'); DDIMScheduler.from_pretrained('s')",
    "tokenizer = BertTokenizer.from_pretrained('text2im', subfolder='tokenizer')",
    "tokenizer = AutoTokenizer.from_pretrained('text2im/tokenizer', model_max_length=77)\n"
    "assert tokenizer.model_max_length == 77",
    "tokenizer.save_pretrained('t'); BertTokenizer.from_pretrained('t')",
    "assert unet.config.in_channels == unet.config['in_channels'] == 4",
    "state_dict = unet.state_dict(); unet.set_state_dict(state_dict)",
    "unet.load_dict(unet.state_dict())",
    "paddle.save(unet.state_dict(), 'unet.pdparams'); unet.set_state_dict(paddle.load('unet.pdparams'))",
    "assert unet.num_parameters() > 1000",
    "assert sum(p.numel().item() for p in unet.parameters() if not p.stop_gradient) > 1000",
    "assert unet.dtype == paddle.float32",
    "unet.to(dtype='float16')",
    "unet.to(dtype=paddle.float16); unet.to('cpu')",
    "unet.eval(); unet.train(); unet.training",
    "unet.my_note = 'mine'; assert unet.my_note == 'mine'",
)
runs(
    "unet = UNet2DConditionModel.from_pretrained('text2im', subfolder='unet', use_safetensors=True)",
    "unet = UNet2DConditionModel.from_pretrained('text2im', subfolder='unet', low_cpu_mem_usage=False)",
    "scheduler = DDIMScheduler.from_pretrained('text2im', subfolder='scheduler', timestep_spacing='trailing')",
)
raises(
    PENDING,
    "unet.save_pretrained('a', variant='fp16'); UNet2DConditionModel.from_pretrained('a', variant='fp16')",
    "assert unet.device",
    "assert unet.in_channels == 4",
    "unet.enable_gradient_checkpointing()",
)
runs("config, unused = UNet2DConditionModel.load_config('text2im', subfolder='unet', return_unused_kwargs=True)")
raises(
    "a config says how a model was made, and is frozen",
    "unet.config.sample_size = 16",
    "unet.register_to_config(sample_size=16)",
)

raises(
    "loading is strict: what is missing, unexpected or mis-shaped is an error that names it",
    "unet, info = UNet2DConditionModel.from_pretrained('text2im', subfolder='unet', output_loading_info=True)",
)

# Calls of pipelines.
runs(
    "images = pipe([prompt], num_inference_steps=1, eta=0.3, guidance_scale=6).images",
    "image = pipe(prompt, num_inference_steps=1).images[0]; image.save('a.png')",
    "image = pipe(prompt, num_inference_steps=1)[0][0]",
    "images = pipe(prompt, num_inference_steps=1, return_dict=False)[0]",
    "images = pipe([prompt] * 2, num_inference_steps=1, height=64, width=64).images; assert len(images) == 2",
    "images = pipe(prompt=prompt, negative_prompt='blurry', num_inference_steps=1).images",
    "images = pipe(prompt, num_images_per_prompt=2, num_inference_steps=1).images; assert len(images) == 2",
    "image = pipe(prompt, num_inference_steps=1, output_type='np').images[0]; assert image.shape[-1] == 3",
    "image = pipe(prompt, num_inference_steps=1, output_type='pd').images; assert image.shape[1] == 3",
    "latents = pipe(prompt, num_inference_steps=1, output_type='latent').images",
    "pipe(prompt, num_inference_steps=1, generator=paddle.Generator())",
    "paddle.seed(42); a = pipe(prompt, num_inference_steps=1, output_type='np').images\n"
    "paddle.seed(42); assert (pipe(prompt, num_inference_steps=1, output_type='np').images == a).all()",
    "pipe(prompt, num_inference_steps=1, latents=paddle.randn([1, 4, 8, 8]), height=64, width=64)",
    "seen = []\ndef callback(pipe, step, timestep, kwargs):\n    seen.append(int(timestep))\n    return kwargs\n"
    "pipe(prompt, num_inference_steps=3, callback_on_step_end=callback); assert len(seen) == 3",
    "pipe.set_progress_bar_config(disable=True); pipe.set_progress_bar_config(disable=None)",
    "with paddle.no_grad(): pipe(prompt, num_inference_steps=1)",
    "with paddle.amp.auto_cast(True): pipe(prompt, num_inference_steps=1)",
    "large = sr(image, num_inference_steps=1, eta=1).images[0]; assert large.size == (64, 64)",
    "large = sr(image=image, num_inference_steps=1, output_type='np').images",
    "sr(floats_tensor((1, 3, 16, 16)), num_inference_steps=1)",
    "faces = ldm(num_inference_steps=1).images; faces[0].save('a.png')",
    "faces = ldm(batch_size=2, num_inference_steps=1, output_type='np').images; assert len(faces) == 2",
    "out = pipe(prompt, num_inference_steps=1); assert out['images'] is out.images and out.to_tuple()[0] is out.images",
    "isinstance(pipe(prompt, num_inference_steps=1), ImagePipelineOutput)",
    "pipe = pipe.to('cpu'); assert pipe.device",
    "pipe.to(dtype='float16')",
    "pipe.to(paddle.float16)",
    "make_image_grid(pipe([prompt] * 2, num_inference_steps=1).images, rows=1, cols=2)",
    "pixels = VaeImageProcessor().preprocess(image, 16, 16); assert pixels.shape == [1, 3, 16, 16]",
)
runs(
    "image = pipe(prompt, num_inference_steps=1, output_type='numpy').images",
    "image = pipe(prompt, num_inference_steps=1, output_type='pt').images",
    "isinstance(pipe(prompt, num_inference_steps=1), dict) or 1 / 0",
    "assert list(pipe(prompt, num_inference_steps=1).keys()) == ['images']",
    "pipe(prompt, num_inference_steps=1, callback=lambda i, t, latents: None, callback_steps=1)",
    "pipe(prompt, num_inference_steps=1, callback_on_step_end=lambda p, i, t, k: k,\n"
    "     callback_on_step_end_tensor_inputs=['latents'])",
    "pipe(prompt, num_inference_steps=1, cross_attention_kwargs=None)",
    "pipe(prompt, timesteps=[900, 500, 100])",
    "with pipe.progress_bar(total=3) as bar: bar.update()",
    "for t in pipe.progress_bar(scheduler.timesteps[:3]): int(t)",
    "pipe.register_modules(unet=unet)",
    "pipe = LDMTextToImagePipeline.from_pipe(pipe)",
    "pipe.enable_attention_slicing(); pipe.disable_attention_slicing()",
    "pipe.enable_xformers_memory_efficient_attention()",
    "pipe.enable_vae_slicing(); pipe.disable_vae_slicing()",
    "pipe.enable_vae_tiling()",
    "pipe.enable_model_cpu_offload()",
    "pipe.enable_sequential_cpu_offload()",
    "assert pipe.vae_scale_factor and pipe.numpy_to_pil(np.zeros((1, 8, 8, 3)))",
)
raises(PENDING, "pipe(prompt_embeds=context[:1], num_inference_steps=1, guidance_scale=1)")
raises(
    "Paddle has one generator a device: a list of them is one stream; give ppdiffusers.Generator(seed)",
    "pipe([prompt] * 2, num_inference_steps=1, generator=[paddle.Generator().manual_seed(i) for i in (0, 1)])",
)
raises("misspelt or unknown arguments are errors", "pipe(prompt, num_inference_step=2)", "pipe(prompt, clip_skip=1)")
raises("a picture is made from what the model reads: no text is no prompt", "pipe(None, num_inference_steps=1)")

# Schedulers.
runs(
    "scheduler.set_timesteps(10)\nfor t in scheduler.timesteps:\n    x = scheduler.step(0.3 * x, t, x).prev_sample",
    "scheduler.set_timesteps(10, device='cpu')",
    "scheduler.set_timesteps(10, device='cuda')",
    "scheduler.set_timesteps(num_inference_steps=10)",
    "scheduler.set_timesteps(timesteps=[900, 500, 100])",
    "s = EulerDiscreteScheduler(); s.set_timesteps(sigmas=[10.0, 3.0, 0.5, 0.0]); assert len(s.timesteps) == 3",
    "scheduler.set_timesteps(10); t = scheduler.timesteps[0]; t.expand([2]); t.cast('int32'); t.item(); int(t)",
    "scheduler.set_timesteps(10); scheduler.timesteps.numpy(); scheduler.timesteps.tolist(); len(scheduler.timesteps)",
    "scheduler.set_timesteps(10); scheduler.add_noise(x, noise, scheduler.timesteps[3:4].tile([2]))",
    "scheduler.set_timesteps(10)\nfor i, t in enumerate(scheduler.timesteps): f'{i} {t}'",
    "scheduler.set_timesteps(10); timesteps = scheduler.timesteps[4 * scheduler.order:]",
    "scheduler.set_timesteps(10); scheduler.set_begin_index(2)",
    "scheduler.set_timesteps(10); assert scheduler.index_for_timestep(scheduler.timesteps[3]) == 3",
    "scheduler.set_timesteps(4)\n"
    "out = scheduler.step(x, scheduler.timesteps[0], x, eta=1.0, generator=paddle.Generator(), return_dict=False)[0]",
    "scheduler.set_timesteps(4); out = scheduler.step(x, scheduler.timesteps[0], x)\n"
    "assert out.pred_original_sample.shape == x.shape",
    "import inspect\nassert 'eta' in set(inspect.signature(scheduler.step).parameters.keys())",
    "latents = noise * scheduler.init_noise_sigma; scheduler.scale_model_input(latents, 5)",
    "t = paddle.randint(0, scheduler.config.num_train_timesteps, (2,)); scheduler.add_noise(x, noise, t)",
    "timesteps = paddle.randint(0, scheduler.num_train_timesteps, (2,), dtype='int64')",
    "target = scheduler.get_velocity(x, noise, paddle.to_tensor([1, 2]))",
    "alphas_cumprod = scheduler.alphas_cumprod.cast('float32')\n"
    "a = alphas_cumprod[paddle.to_tensor([5, 9])].flatten()\nwhile len(a.shape) < 4: a = a.unsqueeze(-1)\n"
    "assert (a ** 0.5 * x + (1 - a) ** 0.5 * noise).dtype == paddle.float32",
    "layer = paddle.nn.Layer(); layer.register_buffer('alphas_cumprod', scheduler.alphas_cumprod)\n"
    "assert 'alphas_cumprod' in layer.state_dict()",
    "scheduler.alphas_cumprod = scheduler.alphas_cumprod.cpu()",
    "prev = scheduler.alphas_cumprod[3] if 3 >= 0 else scheduler.final_alpha_cumprod; assert 0 < float(prev) < 1",
    "assert scheduler.beta_start == scheduler.config.beta_start",
    "assert DDIMScheduler in scheduler.compatibles",
    "assert len(scheduler) == scheduler.config.num_train_timesteps",
    "assert scheduler.order == 1 and scheduler.num_inference_steps is None",
    "s = LMSDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear'); s.set_timesteps(5)\n"
    "assert s.sigmas.shape == [6] and float(s.sigmas[-1]) == 0",
    "s = LCMScheduler.from_config(scheduler.config); s.set_timesteps(4, original_inference_steps=50)",
    "from ppdiffusers.training_utils import compute_snr; compute_snr(scheduler, paddle.to_tensor([5, 9]))",
)
raises(
    "a step out of its schedule is a mistake: with another number of steps it would be another picture",
    "scheduler.set_timesteps(10); scheduler.step(x, 17, x)",
    "scheduler.step(x, 17, x)",
)
raises(
    "a config is frozen; from_config(config, key=...) builds another",
    "scheduler.config.prediction_type = 'sample'",
    "scheduler.register_to_config(prediction_type='sample')",
)

# Models.
runs(
    "y = unet(x, 5, context).sample",
    "y = unet(x, paddle.to_tensor(5), encoder_hidden_states=context).sample",
    "y = unet(x, paddle.to_tensor([5, 6]), context, return_dict=False)[0]",
    "scheduler.set_timesteps(3); y = unet(x, scheduler.timesteps[0], encoder_hidden_states=context)[0]",
    "scheduler.set_timesteps(3); y = unet(scheduler.scale_model_input(x, scheduler.timesteps[0]),\n"
    "    scheduler.timesteps[0].expand([2]), context)[0]",
    "posterior = vae.encode(paddle.randn([1, 3, 32, 32])).latent_dist; latents = posterior.sample() * 0.18215",
    "latents = vae.encode(paddle.randn([1, 3, 32, 32])).latent_dist.mode()",
    "latents = vae.encode(paddle.randn([1, 3, 32, 32])).latent_dist.sample(generator=paddle.Generator())",
    "latents = vae.encode(paddle.randn([1, 3, 32, 32])).latent_dist.sample() * vae.config.scaling_factor",
    "image = vae.decode(paddle.randn([1, 4, 4, 4])).sample; (image / 2 + 0.5).clip(0, 1)",
    "image = vae.decode(paddle.randn([1, 4, 4, 4]), return_dict=False)[0]",
    "image = vqvae.decode(vqvae.encode(paddle.randn([1, 3, 16, 16])).latents).sample",
    "reconstruction = vae(paddle.randn([1, 3, 32, 32])).sample",
    "embeddings = bert(paddle.to_tensor([[2, 5, 3]]))[0]",
    "tokens = tokenizer(prompt, padding='max_length', max_length=77, truncation=True, return_tensors='pd')\n"
    "embeddings = bert(tokens.input_ids)[0]",
    "uncond_input = tokenizer([''] * 2, padding='max_length', max_length=77, truncation=True, return_tensors='pd')\n"
    "assert uncond_input['input_ids'].shape == [2, 77]",
    "tokenizer.model_max_length; tokenizer.vocab_size; tokenizer.pad_token_id; tokenizer.decode([2, 5, 3])",
    "unet.requires_grad_(False) if hasattr(unet, 'requires_grad_') else [p.stop_gradient for p in unet.parameters()]",
)
raises(
    PENDING,
    "image = vae.decode(paddle.randn([1, 4, 4, 4]), generator=None).sample",
    "y = unet(x, 5, context, cross_attention_kwargs=None).sample",
    "vae.enable_slicing(); vae.enable_tiling()",
)
raises(
    "no processors of attention: there is one attention, of Paddle or of oneDNN",
    "unet.set_attn_processor(None)",
    "unet.attn_processors",
)

# Training.
runs(
    "ema = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)\n"
    "ema.step(unet.parameters()); ema.store(unet.parameters()); ema.copy_to(unet.parameters())\n"
    "ema.restore(unet.parameters())",
    "ema = EMAModel(unet.parameters()); paddle.save(ema.state_dict(), 'ema.pdparams')\n"
    "ema.load_state_dict(paddle.load('ema.pdparams'))",
    "lr_scheduler = get_scheduler('cosine', learning_rate=1e-4, num_warmup_steps=2, num_training_steps=9)\n"
    "optimizer = paddle.optimizer.AdamW(learning_rate=lr_scheduler, parameters=unet.parameters())\n"
    "loss = paddle.nn.functional.mse_loss(unet(x, paddle.to_tensor([5, 6]), context).sample, noise)\n"
    "loss.backward(); optimizer.step(); lr_scheduler.step(); optimizer.clear_grad()",
    "lr_scheduler = get_scheduler('constant', learning_rate=1e-4); lr_scheduler.step(); lr_scheduler.get_lr()",
    "unet = paddle.DataParallel(unet); unet(x, 5, context)",
    "from ppdiffusers.training_utils import unwrap_model; unwrap_model(paddle.DataParallel(unet)).save_pretrained('a')",
    "from ppdiffusers.training_utils import set_seed; set_seed(42)",
    "params = [p for p in unet.parameters() if not p.stop_gradient]",
)
