"""Answers that no ordinary server gives, to a client that knows no hash: the drill's own, a run of each."""

from __future__ import annotations

import pytest
from fake_community import CommunityServer
from zoo_drill import answers
from zoo_drill.place import Place, Row


@pytest.fixture
def place(tmp_path, monkeypatch):
    for key in ("MODEL_ZOO_ENDPOINT", "MODEL_ZOO_HOME", "MODEL_ZOO_REGISTRY", "NO_PROXY"):
        monkeypatch.setenv(key, "127.0.0.1,localhost")  # and as it was before when the test is over
    with CommunityServer(tmp_path / "served") as server:
        yield Place(tmp_path, server)


@pytest.mark.parametrize("name", answers.FAULTS)
def test_answer(name, place):
    row = Row(name)
    answers.fault(place, row, answers.FAULTS[name], runs=1, first=1)
    assert (row.runs, row.wrong) == (1, 0), row.remarks
