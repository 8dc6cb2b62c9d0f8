"""The embedded model, exported once for all tests."""

import shutil
from pathlib import Path

import pytest
from small_models import EMBEDDED

from ppdiffusers import LDMSuperResolutionPipeline


@pytest.fixture(scope="session")
def eager():
    return LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="eager")


@pytest.fixture(scope="session")
def folder(eager, tmp_path_factory):
    target = tmp_path_factory.mktemp("exported") / "tiny"
    eager.export(target, "fp32")
    return target


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))
