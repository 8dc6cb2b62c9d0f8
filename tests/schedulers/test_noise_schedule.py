"""Betas and timesteps: exact values from the definitions, and what must hold for every number of steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppdiffusers.schedulers.noise_schedule import make_betas, rescale_to_zero_terminal_snr, spaced_timesteps


def test_linear_betas_are_evenly_spaced_and_scaled_ones_in_the_root():
    assert make_betas("linear", 0.1, 0.3, 3) == pytest.approx([0.1, 0.2, 0.3], rel=1e-15)
    assert make_betas("scaled_linear", 0.04, 0.16, 3) == pytest.approx([0.04, 0.09, 0.16], rel=1e-14)
    assert make_betas("linear", 0.1, 0.3, 3).dtype == np.float64


def test_cosine_betas_give_the_cosine_back_and_are_capped():
    betas = make_betas("squaredcos_cap_v2", 0.0, 0.0, 100)
    expected = math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert np.prod(1 - betas[:50]) == pytest.approx(expected, rel=1e-12)
    assert betas[-1] == 0.999 and (betas[:-1] < 0.999).all()


def test_trained_betas_stand_for_themselves():
    assert make_betas("linear", 0.1, 0.2, 3, [0.5, 0.25, 1.0]).tolist() == [0.5, 0.25, 1.0]


@pytest.mark.parametrize("betas", [[0.0, 0.5], [1.0, 0.5], [0.5, 1.1], [-0.1, 0.5], [0.5, float("nan")]])
def test_betas_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        make_betas("linear", 0.1, 0.2, 2, betas)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_rescaled_betas_end_without_signal_and_start_unchanged(schedule):
    betas = make_betas(schedule, 0.00085, 0.012, 1000)
    before, after = np.cumprod(1 - betas), np.cumprod(1 - rescale_to_zero_terminal_snr(betas))
    assert after[-1] == 0
    assert after[0] == pytest.approx(before[0], rel=1e-14)
    # Algorithm 1: an affine map of the roots, so the middle one follows from the ends.
    roots = np.sqrt(before)
    expected = (roots[500] - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    assert np.sqrt(after[500]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("spacing", "steps", "offset", "expected"),
    [
        ("leading", 4, 0, [750, 500, 250, 0]),
        ("leading", 4, 1, [751, 501, 251, 1]),
        ("leading", 3, 0, [666, 333, 0]),
        ("trailing", 4, 1, [999, 749, 499, 249]),
        ("trailing", 3, 0, [999, 666, 332]),
        ("linspace", 4, 1, [999, 666, 333, 0]),
        ("linspace", 3, 0, [999, 500, 0]),
        ("leading", 1, 0, [0]),
        ("trailing", 1, 0, [999]),
        ("linspace", 1, 0, [0]),
    ],
)
def test_timesteps_of_table_2(spacing, steps, offset, expected):
    timesteps = spaced_timesteps(spacing, 1000, steps, offset)
    assert timesteps.tolist() == expected
    assert timesteps.dtype == np.int64


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("total", [1, 15, 49, 1000])
def test_every_number_of_steps_gives_that_many_different_timesteps_downwards(spacing, total):
    for steps in range(1, total + 1):
        timesteps = spaced_timesteps(spacing, total, steps)
        assert len(timesteps) == steps
        assert (np.diff(timesteps) < 0).all()
        assert 0 <= timesteps[-1] and timesteps[0] < total


@pytest.mark.parametrize(("steps", "offset"), [(1000, 1), (500, 2), (10, -1)])
def test_an_offset_that_leads_out_of_the_training_steps_is_refused(steps, offset):
    with pytest.raises(ValueError, match=f"{steps} steps with steps_offset {offset}.*of 0 ... 999"):
        spaced_timesteps("leading", 1000, steps, offset)
