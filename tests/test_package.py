"""What importing costs, what is promised by the public names, and what stands beside it in an environment."""

import subprocess
import sys
from pathlib import Path

import pytest

import ppdiffusers


def python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_does_no_work():
    """Neither package imports anything heavy until a name is used."""
    heavy = (
        "{'paddle', 'paddlenlp', 'torch', 'requests', 'tqdm', 'PIL', 'safetensors', 'tokenizers', 'importlib.metadata'}"
    )
    assert python(f"import sys, ppdiffusers, model_zoo; print({heavy} & set(sys.modules))").strip() == "set()"


def test_paddlenlp_is_not_needed():
    code = "import sys; sys.modules['paddlenlp'] = None\nimport ppdiffusers\n"
    python(code + "for name in ppdiffusers.__all__: getattr(ppdiffusers, name)")


@pytest.mark.parametrize("name", ppdiffusers.__all__)
def test_public_names_exist_and_are_documented(name):
    value = getattr(ppdiffusers, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(ppdiffusers)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="StableDiffusion"):
        _ = ppdiffusers.StableDiffusionPipeline


ROOT = Path(__file__).parent.parent


@pytest.fixture
def site(tmp_path):
    """An environment's folder with this distribution."""
    for name in ("ppdiffusers", "model_zoo", "paddle_latent_diffusion.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "paddle_latent_diffusion-0.1.0.dist-info").mkdir()
    return tmp_path


def run_in(site, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=site, env={"PYTHONPATH": str(site)}, capture_output=True,
                          text=True)  # fmt: skip


COMMAND = """
import sys, paddle_latent_diffusion
sys.argv = ["ppdiffusers", "--version"]
sys.exit(paddle_latent_diffusion.main())
"""


def test_beside_baidus_package_one_line_says_what_to_type(site):
    assert run_in(site, "-c", "import ppdiffusers").returncode == 0
    assert run_in(site, "-c", COMMAND).stdout.startswith("ppdiffusers ")
    (site / "ppdiffusers-0.29.0.dist-info").mkdir()
    imported, command = run_in(site, "-c", "import ppdiffusers.schedulers"), run_in(site, "-c", COMMAND)
    for process, start in ((imported, "ImportError: "), (command, "ppdiffusers: error: ")):
        line = process.stderr.strip().splitlines()[-1]
        assert line.startswith(f"{start}the distribution ppdiffusers 0.29.0 is installed")
        assert "pip uninstall -y ppdiffusers paddle-latent-diffusion, and then, in this" in line
    assert command.returncode == 2 and len(command.stderr.splitlines()) == 1
    # The other way round: their files lie over ours, and only the command's entrance is left.
    (site / "ppdiffusers").unlink()
    (site / "ppdiffusers").mkdir()
    (site / "ppdiffusers" / "__init__.py").write_text("raise RuntimeError('theirs')")
    assert run_in(site, "-c", COMMAND).stderr == command.stderr
