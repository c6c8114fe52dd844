"""Golden: tables, DDIM steps and learning rates of diffusers, checked against in test/lib/{schedule,sampler}.test.ts."""

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.optimization import get_scheduler

from pattern import pattern

OUT = Path(__file__).resolve().parents[2] / "test/fixtures/schedules.json"
SD1 = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SAMPLERS = [
    {**SD1, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    {**SD1, "steps_offset": 0, "set_alpha_to_one": True, "clip_sample": True},
    {**SD1, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 1, "set_alpha_to_one": True, "clip_sample": False},
]


def alphas(config: dict) -> dict:
    keys = ["num_train_timesteps", "beta_start", "beta_end", "beta_schedule"]
    config = {key: config[key] for key in keys}
    places = [0, 1, 17, 250, 500, 998, 999]
    values = DDPMScheduler(**config).alphas_cumprod
    return {"config": config, "timesteps": places, "values": [float(values[t]) for t in places]}


def picture(config: dict, steps: int) -> dict:
    """A picture of eight numbers, drawn with made-up predictions."""
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    latents = torch.from_numpy(pattern("latents", (8,)))
    path = []
    for i, timestep in enumerate(scheduler.timesteps):
        noise = torch.from_numpy(pattern(f"noise {i}", (8,)))
        latents = scheduler.step(noise, timestep, latents).prev_sample
        path.append(latents.tolist())
    return {"config": config, "steps": steps, "timesteps": scheduler.timesteps.tolist(), "path": path}


def rates(name: str, warmup: int, steps: int) -> dict:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    named = "constant_with_warmup" if name == "constant" and warmup > 0 else name
    scheduler = get_scheduler(named, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"lrScheduler": name, "lrWarmupSteps": warmup, "steps": steps, "values": values}


golden = {
    "alphas": [alphas(config) for config in SAMPLERS[1:]],
    "pictures": [picture(config, steps) for config in SAMPLERS for steps in (1, 7, 30)],
    "rates": [rates(name, warmup, 12) for name in ("constant", "cosine") for warmup in (0, 4)],
}
OUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(OUT.name, OUT.stat().st_size, "bytes")
