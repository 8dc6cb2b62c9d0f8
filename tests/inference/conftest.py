"""The embedded model, exported once for all tests."""

import shutil
from pathlib import Path

import pytest

from ppdiffusers import LDMSuperResolutionPipeline

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A MODEL_ZOO_HOME, where programs are kept."""
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def eager():
    return LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="eager")


@pytest.fixture(scope="session")
def folder(eager, home, tmp_path_factory):
    target = tmp_path_factory.mktemp("exported") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_ZOO_HOME", home)
        eager.export(target, "fp32")
    return target


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))
