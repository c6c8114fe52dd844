"""Golden: pictures of eight numbers that diffusers' schedulers draw with made-up predictions, and all timesteps of DDIM, checked against in
test/lib/draw/sampler.test.ts."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral

from pattern import pattern

OUT = Path(__file__).resolve().parents[2] / "test/fixtures/samplers.json"
SD1 = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# A1111's and ComfyUI's; diffusers has 2^-24.
LEAST_ALPHA = 4.8973451890853435e-08


def numbers(name: str) -> torch.Tensor:
    return torch.from_numpy(pattern(name, (8,)))


def log_sigmas(scheduler) -> np.ndarray:
    alphas = scheduler.alphas_cumprod.double().numpy()
    return np.log((1 - alphas) / alphas) / 2


def between(logs: np.ndarray, count: int) -> list[float]:
    """k-diffusion's spacing: log sigma between timesteps that lie evenly, and zero at the end."""
    return [*np.exp(np.interp(np.linspace(len(logs) - 1, 0, count), np.arange(len(logs)), logs)), 0.0]


def euler(kind, prediction: str, zero: bool, count: int):
    scheduler = kind(**SD1, prediction_type=prediction, timestep_spacing="linspace", rescale_betas_zero_snr=zero)
    if zero:
        scheduler.alphas_cumprod[-1] = LEAST_ALPHA
    if kind is EulerDiscreteScheduler and 999 % (count - 1) != 0:
        # Timesteps between two of training's, which diffusers finds from sigmas alone.
        scheduler.set_timesteps(sigmas=between(log_sigmas(scheduler), count))
    else:
        scheduler.set_timesteps(count)
    return scheduler


def dpm(karras: bool, prediction: str, count: int):
    scheduler = DPMSolverMultistepScheduler(**SD1, prediction_type=prediction, use_karras_sigmas=karras, final_sigmas_type="zero")
    if karras:
        scheduler.set_timesteps(count)
    else:
        scheduler.set_timesteps(timesteps=np.linspace(999, 0, count).round())
    return scheduler


def picture(sampler: str, scheduler, count: int) -> dict:
    """Latents are x0 + sigma * noise for all but DDIM, as k-diffusion and diffusers' Euler have them; DPM-Solver's are scaled to that."""
    sigmas = [] if sampler == "DDIM" else scheduler.sigmas.double().tolist()
    inner = sampler.startswith("DPM++")
    latents = numbers("latents") * (sigmas[0] if sigmas else 1)
    if inner:
        latents = latents / (sigmas[0] ** 2 + 1) ** 0.5
    path = []
    timesteps = scheduler.timesteps[:count]
    for i, timestep in enumerate(timesteps):
        scheduler.scale_model_input(latents, timestep)
        ancestral.randn_tensor = lambda *_, i=i, **__: numbers(f"noise {i}")
        latents = scheduler.step(numbers(f"prediction {i}"), timestep, latents).prev_sample
        outer = (sigmas[i + 1] ** 2 + 1) ** 0.5 if inner else 1
        path.append([float(f"{value:.7g}") for value in (latents * outer).tolist()])
    return {"sampler": sampler, "config": config_of(scheduler), "timesteps": [round(float(t), 4) for t in timesteps], "path": path}


# What tells the schedulers apart; the others' timesteps are A1111's, whatever their config says.
KEYS = ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample", "clip_sample_range")


def config_of(scheduler) -> dict:
    keys = KEYS if isinstance(scheduler, DDIMScheduler) else KEYS[:2]
    return SD1 | {key: scheduler.config[key] for key in keys if key in scheduler.config}


def ddim(count: int = 1, **config):
    scheduler = DDIMScheduler(**SD1, **{"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False} | config)
    scheduler.set_timesteps(count)
    return scheduler


def all_timesteps(spacing: str) -> str:
    """The sha256 of the timesteps of 1 to 1000 steps; of some counts diffusers' trailing ones have one more, -1."""
    lists = [ddim(count, timestep_spacing=spacing, steps_offset=0).timesteps.tolist()[:count] for count in range(1, 1001)]
    return hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()


V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
configs = [
    V | {"timestep_spacing": "leading"},
    V | ZERO | {"timestep_spacing": "leading", "set_alpha_to_one": True},
    V | ZERO | {"timestep_spacing": "trailing"},
    {"timestep_spacing": "trailing", "steps_offset": 0},
    {"timestep_spacing": "linspace", "set_alpha_to_one": True},
    {"timestep_spacing": "linspace", "clip_sample": True, "clip_sample_range": 0.5},
]
pictures = [picture("DDIM", ddim(count, **config), count) for config in configs for count in (1, 4, 7)]
pictures.append(picture("DDIM", ddim(61, timestep_spacing="trailing"), 61))
for prediction in ("epsilon", "v_prediction"):
    for count in (4, 7):
        pictures.append(picture("Euler", euler(EulerDiscreteScheduler, prediction, False, count), count))
    pictures.append(picture("Euler a", euler(EulerAncestralDiscreteScheduler, prediction, False, 10), 10))
    pictures.append(picture("DPM++ 2M", dpm(False, prediction, 10), 10))
    pictures.append(picture("DPM++ 2M Karras", dpm(True, prediction, 7), 7))
pictures.append(picture("Euler", euler(EulerDiscreteScheduler, "v_prediction", True, 7), 7))
timesteps = {spacing: all_timesteps(spacing) for spacing in ("leading", "trailing", "linspace")}
OUT.write_text(json.dumps({"pictures": pictures, "timesteps": timesteps}, separators=(",", ":")) + "\n")
print(OUT.name, OUT.stat().st_size, "bytes")
