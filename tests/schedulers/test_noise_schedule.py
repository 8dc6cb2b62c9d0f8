"""Betas and timesteps: exact values from the definitions, and what must hold for every number of steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppdiffusers.schedulers.noise_schedule import (
    make_betas,
    rescale_to_zero_terminal_snr,
    spaced_sigmas,
    spaced_timesteps,
    timesteps_of_sigmas,
)


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


def test_sigmoid_betas_are_a_logistic_curve():
    betas = make_betas("sigmoid", 0.1, 0.3, 3)
    assert betas == pytest.approx([0.1 + 0.2 / (1 + math.exp(6)), 0.2, 0.1 + 0.2 / (1 + math.exp(-6))], rel=1e-14)


@pytest.mark.parametrize(
    ("spacing", "middle"),
    [
        ("karras", ((14.0 ** (1 / 7) + 0.03 ** (1 / 7)) / 2) ** 7),
        ("exponential", math.sqrt(14.0 * 0.03)),
        ("beta", (14.0 + 0.03) / 2),
    ],
)
def test_sigmas_by_their_ends_and_middle(spacing, middle):
    sigmas = spaced_sigmas(spacing, 14.0, 0.03, 5)
    assert (sigmas[0], sigmas[-1]) == (14.0, 0.03)
    assert sigmas[2] == pytest.approx(middle, rel=1e-12)
    assert (np.diff(sigmas) < 0).all()


def test_beta_spacing_has_the_quantiles_of_the_beta_distribution():
    # Integrating the density of Beta(0.6, 0.6) over x = sin(angle)^2, where it has no poles, gives the part back.
    part = spaced_sigmas("beta", 1.0, 0.0, 9)[::-1]
    angles = np.linspace(0, math.pi / 2, 400001)
    density = (np.sin(angles) * np.cos(angles)) ** 0.2
    whole = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    assert np.interp(np.arcsin(np.sqrt(part)), angles, whole / whole[-1]) == pytest.approx(np.arange(9) / 8, abs=1e-6)


def test_timesteps_of_sigmas_are_between_their_neighbours_in_the_logarithm():
    table = np.array([0.1, 0.4, 1.6])
    assert timesteps_of_sigmas(np.array([1.6, 0.8, 0.2, 0.1]), table) == pytest.approx([2, 1.5, 0.5, 0], abs=1e-12)
