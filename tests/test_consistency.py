"""Results that averaged down are their input, and smooth where it is."""

import numpy as np
import pytest

from ppdiffusers import consistency
from ppdiffusers.consistency import make_consistent


def averaged(result, factor=4):
    batch, height, width, channels = result.shape
    return result.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))


def disturbed(low, strength, factor=4):
    noise = np.random.default_rng(1).normal(0, strength, (*np.multiply(low.shape[1:3], factor), low.shape[3]))
    return (low.repeat(factor, axis=1).repeat(factor, axis=2) + noise).astype(np.float32)


def photograph(height=70, width=50, batch=1):
    y, x = np.mgrid[:height, :width] / 20
    waves = np.stack([np.sin(3 * x + y), np.cos(x * y), np.sin(x) * np.cos(2 * y)], axis=-1) * 0.35 + 0.5
    return np.stack([waves * (1 - 0.3 * i) for i in range(batch)]).astype(np.float32)


def test_averaged_down_it_is_the_input():
    low = photograph(batch=2)
    before = disturbed(low, 0.05) * 0.9 + 0.04
    result = np.concatenate(list(make_consistent([before], low)), axis=1)
    assert np.abs(averaged(before) - low).max() > 0.05
    assert np.abs(averaged(result) - low).max() < 0.5 / 255
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("cuts", [(280,), (4, 8, 280), (40, 44, 160, 200, 280), tuple(range(28, 281, 28))])
@pytest.mark.parametrize("block", [1, 1 << 21])
def test_bands_give_what_the_whole_gives(monkeypatch, cuts, block):
    low = photograph()
    before = disturbed(low, 0.1)
    whole = np.concatenate(list(make_consistent([before], low)), axis=1)
    monkeypatch.setattr(consistency, "_BLOCK", block)
    bands = [before[:, start:stop] for start, stop in zip((0, *cuts), cuts)]
    parts = list(make_consistent(iter(bands), low))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert block > 1 or len(parts) > 3


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 200, 200), (128, 7, 250), (1, 254, 3)])
def test_flat_pictures_come_back_flat(colour):
    low = np.broadcast_to(np.float32(colour) / 255, (1, 9, 13, 3))
    (result,) = make_consistent([disturbed(low, 0.05)], low)
    assert np.abs(result * 255 - colour).max() < 0.01


def test_ramps_come_back_smooth():
    ramp = np.round(np.linspace(20, 200, 48)) / 255
    low = np.broadcast_to(ramp[None, None, :, None], (1, 24, 48, 3)).astype(np.float32)
    (result,) = make_consistent([disturbed(low, 0.05)], low)
    wanted = np.interp((np.arange(192) - 1.5) / 4, np.arange(48), ramp)
    assert np.abs(result[0, :, 8:-8] - wanted[None, 8:-8, None]).max() * 255 < 1


def test_detail_is_kept_where_there_is_structure():
    low = np.random.default_rng(0).random((1, 24, 24, 3), dtype=np.float32) * 0.6 + 0.2
    before = disturbed(low, 0.05)
    before += (low - averaged(before)).repeat(4, axis=1).repeat(4, axis=2)  # consistent already
    (result,) = make_consistent([before], low)
    np.testing.assert_allclose(result, before, atol=1e-5)


def test_none_asked_for():
    before = np.random.default_rng(0).random((1, 8, 8, 3))
    (result,) = make_consistent([before], before[:, ::4, ::4], 0)
    assert result is before


@pytest.mark.parametrize("rounds", [-1, 1.5, True, "3", 101])
def test_what_is_no_number_of_rounds(rounds):
    with pytest.raises(ValueError, match="number of rounds"):
        consistency.check_rounds(rounds)
