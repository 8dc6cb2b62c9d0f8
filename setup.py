"""Packaging; the settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = {}
exec((ROOT / "ppdiffusers" / "version.py").read_text(), VERSION)

# Text needs none of this: it is for who brings a tokenizer of paddlenlp. 2.8.1, the newest, imports names that newer
# releases of two packages have dropped; one of its own has no release for Python 3.13, and its NumPy 1 is too old for
# a newer pyarrow.
TEXT = [
    f'{requirement}; python_version < "3.13"'
    for requirement in ("paddlenlp>=2.8.1,<3", "huggingface_hub<0.26", "aistudio-sdk<0.3", "pyarrow<22")
]

setup(
    name="paddle-latent-diffusion",
    version=VERSION["__version__"],
    description="Latent diffusion models in PaddlePaddle, and the model zoo they come from",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The authors of paddle-latent-diffusion",
    url="https://arxiv.org/abs/2112.10752",
    project_urls={"Paper": "https://arxiv.org/abs/2112.10752", "PaddlePaddle": "https://www.paddlepaddle.org.cn"},
    keywords="latent diffusion, diffusion models, paddlepaddle, super-resolution, text-to-image, inpainting, diffusers",
    python_requires=">=3.9",
    py_modules=["paddle_latent_diffusion"],
    packages=find_packages(include=["ppdiffusers", "ppdiffusers.*", "model_zoo", "model_zoo.*"]),
    package_data={
        "model_zoo": ["*.json", "community/*/*.json", "builtin/*/*/*", "builtin/*/*/*/*"],
        "ppdiffusers": ["py.typed", "deploy/*"],
    },
    install_requires=[
        "filelock>=3.4",
        "numpy>=1.21",
        "pillow>=10.1",
        "requests>=2.25",
        "safetensors>=0.4",
        "tokenizers>=0.15",
        "tqdm>=4.60",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<4", "setuptools"],
        "gpu": ["paddlepaddle-gpu>=2.6.2,<4", "numpy<2", "setuptools"],
        "text": TEXT,
        "convert": ["pyyaml>=6"],
        "distributed": ["ray[data]>=2.45,<3"],
        "train": ["visualdl>=2.5", "resvg-py>=0.1"],
        "test": ["pytest>=7", "pytest-xdist>=3", "jsonschema>=4.18", "pyyaml>=6", "ruff==0.17.5", "mypy>=1.8"],
    },
    entry_points={
        "console_scripts": ["ppdiffusers = paddle_latent_diffusion:main", "model-zoo = model_zoo.cli:main"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
