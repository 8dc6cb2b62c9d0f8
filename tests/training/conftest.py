import pytest
from training_cases import write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of `training_cases.write_pictures`."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))
