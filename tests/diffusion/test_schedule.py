import math

import pytest
import torch

from fedserdiff.diffusion.schedule import TIMESTEPS, add_noise, alpha_bar, ddim_step, sampling_timesteps


def closed_form(t: int) -> float:
    """Cosine ᾱ of Nichol and Dhariwal in plain floats, with its end clamped away from 0."""

    def f(step: float) -> float:
        return math.cos((step / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    return max(f(t + 1) / f(0), 1e-5)


@pytest.mark.parametrize("steps", range(1, 11))
def test_every_ddim_step_moves_between_closed_form_alpha_bars(steps: int) -> None:
    timesteps = sampling_timesteps(steps)
    stride = 1000 / steps
    assert timesteps == [round(1000 - i * stride) - 1 for i in range(steps)]
    clean, noise = torch.tensor([0.3]), torch.tensor([-1.1])
    for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
        a = closed_form(t)
        noisy = math.sqrt(a) * clean + math.sqrt(1 - a) * noise
        assert float(add_noise(clean[None], noise[None], torch.tensor([t]))) == pytest.approx(float(noisy), abs=1e-5)
        b = 1.0 if t_next is None else closed_form(t_next)
        expected = math.sqrt(b) * clean + math.sqrt(1 - b) * noise
        assert float(ddim_step(noisy, clean, t, t_next)) == pytest.approx(float(expected), abs=1e-4)


def test_sampling_starts_at_pure_noise_and_ends_clean() -> None:
    assert sampling_timesteps(4) == [999, 749, 499, 249]
    assert sampling_timesteps(1) == [999]
    assert float(alpha_bar(torch.tensor(999))) < 1e-4
    assert float(alpha_bar(torch.tensor(0))) > 0.999


def test_alpha_bar_falls_at_every_step_before_the_clamp() -> None:
    bars = alpha_bar(torch.arange(TIMESTEPS))
    assert bars.shape == (1000,)
    assert bool((bars[1:-2] < bars[:-3]).all())
    assert bool((bars > 0).all())


def test_a_perfect_denoiser_recovers_the_map_from_any_number_of_steps() -> None:
    clean = torch.linspace(-1, 1, 50)[None]
    for steps in (1, 3, 7, 10):
        noisy = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
        timesteps = sampling_timesteps(steps)
        for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
            noisy = ddim_step(noisy, clean, t, t_next)
        assert torch.equal(noisy, clean)
