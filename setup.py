"""Packaging; the settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = {}
exec((ROOT / "ppdiffusers" / "version.py").read_text(), VERSION)

# paddlenlp 2.8.1 imports names that newer releases of these two have dropped.
TEXT = ["paddlenlp>=2.8.1,<3", "huggingface_hub<0.26", "aistudio-sdk<0.3"]

setup(
    name="paddle-latent-diffusion",
    version=VERSION["__version__"],
    description="Latent diffusion models in PaddlePaddle, and the model zoo they come from",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=find_packages(include=["ppdiffusers", "ppdiffusers.*", "model_zoo", "model_zoo.*"]),
    package_data={
        "model_zoo": ["*.json", "community/*/*.json", "builtin/*/*/*", "builtin/*/*/*/*"],
        "ppdiffusers": ["py.typed"],
    },
    install_requires=[
        "filelock>=3.4",
        "numpy>=1.21",
        "pillow>=10.1",
        "requests>=2.25",
        "safetensors>=0.4",
        "tqdm>=4.60",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<4", "setuptools"],
        "gpu": ["paddlepaddle-gpu>=2.6.2,<4", "numpy<2", "setuptools"],
        "text": TEXT,
        "web": ["fastapi>=0.100", "uvicorn>=0.20", "python-multipart"],
        "convert": ["pyyaml>=6"],
        "distributed": ["ray>=2.9"],
        "train": ["visualdl>=2.5", "resvg-py>=0.1"],
        "test": ["pytest>=7", "jsonschema>=4.18", "pyyaml>=6", "ruff==0.17.5", "mypy>=1.8"],
    },
    entry_points={
        "console_scripts": ["ppdiffusers = ppdiffusers.cli.main:main", "model-zoo = model_zoo.cli:main"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
