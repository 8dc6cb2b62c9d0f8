import pytest
from cases import write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of `cases.write_pictures`."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))
