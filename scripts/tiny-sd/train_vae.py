"""Trains the VAE: L1 + MSE, colours of 8 x 8 blocks, edges, and a slight KL term; the rate falls along a cosine.

The UNet lives in the VAE's latents: where this changes, the UNet starts anew.

  train_vae.py --minutes 60 [--from-nothing]
"""

import argparse
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from data import NAMES, compose, concepts, load, pick_backgrounds, save_grid
from training import DEVICE, Average, autocast

root = Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=Path, default=root / "examples/tiny-sd", help="where the VAE to go on from lies")
parser.add_argument("--from-nothing", action="store_true", help="take only the sizes from there, not the weights")
parser.add_argument("--data", type=Path, default=root / "build/tiny-sd/data")
parser.add_argument("--out", type=Path, default=root / "build/tiny-sd/vae")
parser.add_argument("--minutes", type=float, default=60)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--learning-rate", type=float, default=5e-4)
options = parser.parse_args()

torch.manual_seed(0)
generator = torch.Generator().manual_seed(int(time.time()))
if options.from_nothing:
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(options.model / "vae"))
else:
    vae = AutoencoderKL.from_pretrained(options.model / "vae", torch_dtype=torch.float32)
vae = vae.to(DEVICE, memory_format=torch.channels_last).train()
every = concepts(options.data, every=True)
pictures = torch.cat([load(options.data, "flat", every), load(options.data, "3d", every)])
fixed = compose(pictures[:: len(pictures) // 20][:20], torch.arange(20) % len(NAMES), None).to(DEVICE)


def batch(count: int) -> torch.Tensor:
    """[count, 3, S, S]"""
    some = torch.randint(0, len(pictures), (count,), generator=generator)
    return compose(pictures[some], pick_backgrounds(count, generator), generator).to(DEVICE)


def edges(difference: torch.Tensor) -> torch.Tensor:
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def decibels(mse: float) -> float:
    """Peak signal-to-noise ratio; the peak is 2."""
    return 10 * math.log10(4 / mse)


weights = list(vae.parameters())
optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=1e-4)
average = Average(weights)
errors: list[float] = []
step = 0
started = time.time()
while (done := (time.time() - started) / 60 / options.minutes) < 1:
    rate = min(1, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * rate
    images = batch(options.batch).contiguous(memory_format=torch.channels_last)
    with autocast():
        posterior = vae.encode(images).latent_dist
        latents = posterior.sample()
        decoded = vae.decode(latents).sample
    difference = decoded.float() - images
    mse = difference.square().mean()
    blocks = torch.nn.functional.avg_pool2d(difference, 8).square().mean()
    kl = posterior.kl().mean() / latents[0].numel()
    loss = difference.abs().mean() + mse + 4 * blocks + edges(difference) + 1e-4 * kl
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    step += 1
    average.update(min(0.99, 1 - 1 / (step + 1)))
    errors.append(mse.item())
    if step % 200 == 0:
        recent = decibels(sum(errors[-200:]) / 200)
        print(f"{(time.time() - started) / 60:.1f} min, step {step}, {recent:.2f} dB", flush=True)

average.copy_to_weights()
options.out.mkdir(parents=True, exist_ok=True)
with torch.no_grad():
    vae.eval()
    again = vae.decode(vae.encode(fixed).latent_dist.mode()).sample
    save_grid(torch.cat([fixed[:10], again[:10], fixed[10:], again[10:]]), 10, options.out / "reconstructions.png")
    latents = torch.cat([vae.encode(batch(32)).latent_dist.sample() for _ in range(16)])
# Latents times the scaling factor have a variance of 1, as diffusion expects.
vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
vae.save_pretrained(options.out)
print(f"{decibels((again - fixed).square().mean().item()):.2f} dB on the fixed pictures")
