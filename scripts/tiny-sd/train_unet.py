"""Trains UNet and text encoder together, and can be stopped at any time: the state is kept in a file every ten minutes.

  nice -n 19 train_unet.py --minutes 170        # goes on from the state where there is one, else from --model's weights
  train_unet.py --export build/tiny-sd/model    # writes the averaged weights as a diffusers folder with samples.png

Epsilon-prediction, loss weighted by min-SNR (gamma 5, arXiv:2303.09556), constant rate, averaged weights.
"""

import argparse
import random
import shutil
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from data import caption, compose, concepts, load, pick_backgrounds, save_grid
from networks import SAMPLES, SCHEDULE, Networks, scheduler
from training import DEVICE, autocast, save_state

root = Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=Path, default=root / "examples/tiny-sd")
parser.add_argument("--from-nothing", action="store_true", help="take only sizes and tokenizer from there, not the weights")
parser.add_argument("--vae", type=Path, help="default: the model's")
parser.add_argument("--data", type=Path, default=root / "build/tiny-sd/data")
parser.add_argument("--state", type=Path, default=root / "build/tiny-sd/state.pt")
parser.add_argument("--minutes", type=float, default=60)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=6e-4)
parser.add_argument("--decay", type=float, default=0.9995, help="of the averaged weights a step; lower where few steps are left")
parser.add_argument("--variants", type=int, default=14, help="placements of each emoji whose latents are kept")
parser.add_argument("--export", type=Path)
options = parser.parse_args()
vae_folder = options.vae or options.model / "vae"
networks = Networks(options.model, vae_folder, options.state, options.from_nothing)


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_grid(networks.draw(SAMPLES, steps=50), 8, folder / "samples.png")
    networks.average.copy_to_weights()
    for name in ("unet", "text_encoder", "vae"):
        getattr(networks, name).half().save_pretrained(folder / name)
    scheduler().save_pretrained(folder / "scheduler")
    shutil.copytree(options.model / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    shutil.copy(options.model / "model_index.json", folder)


@torch.no_grad()
def encode_pictures(pictures: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, list[int], list[int]]:
    """Latents [N, 4, 16, 16], which emoji and which background each is; the first variant stands unmoved."""
    latents, emoji, backgrounds = [], [], []
    for variant in range(options.variants):
        for some in torch.randperm(len(pictures), generator=generator).split(64):
            behind = pick_backgrounds(len(some), generator)
            images = compose(pictures[some], behind, generator if variant > 0 else None).to(DEVICE)
            with autocast():
                sample = networks.vae.encode(images).latent_dist.sample()
            latents.append((sample.float() * networks.vae.config.scaling_factor).cpu())
            emoji += some.tolist()
            backgrounds += behind.tolist()
    return torch.cat(latents), emoji, backgrounds


def train() -> None:
    torch.manual_seed(int(time.time()))
    random.seed(time.time())
    generator = torch.Generator().manual_seed(int(time.time()))
    optimizer = torch.optim.AdamW(networks.weights, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    if networks.optimizer_state:
        optimizer.load_state_dict(networks.optimizer_state)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate
        print(f"goes on at step {networks.step}", flush=True)
    rows = concepts(options.data)
    latents, emoji, backgrounds = encode_pictures(load(options.data, "flat", rows), generator)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(DEVICE)

    def keep() -> None:
        options.state.parent.mkdir(parents=True, exist_ok=True)
        save_state(networks.state(optimizer), options.state)
        save_grid(networks.draw(SAMPLES, steps=30), 8, options.state.with_suffix(".png"))

    started = said = kept = time.time()
    losses: list[float] = []
    while time.time() - started < options.minutes * 60:
        some = torch.randint(0, len(latents), (options.batch,), generator=generator)
        clean = latents[some].to(DEVICE)
        # One caption in ten is empty, for classifier-free guidance.
        texts = ["" if random.random() < 0.1 else caption(rows[emoji[i]]["name"], backgrounds[i]) for i in some.tolist()]
        t = torch.randint(0, 1000, (options.batch,), device=DEVICE)
        noise = torch.randn_like(clean)
        alpha = alphas[t][:, None, None, None]
        noisy = (alpha.sqrt() * clean + (1 - alpha).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with autocast():
            predicted = networks.unet(noisy, t, networks.encode(texts)).sample
        mse = (predicted.float() - noise).square().mean((1, 2, 3))
        snr = alphas[t] / (1 - alphas[t])
        loss = (mse * snr.clamp(max=5) / snr).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.weights, 1.0)
        optimizer.step()
        networks.step += 1
        networks.average.update(min(options.decay, (networks.step + 1) / (networks.step + 10)))
        losses.append(mse.mean().item())
        now = time.time()
        if now - said > 60:
            print(f"{(now - started) / 60:.1f} min, step {networks.step}, mse {sum(losses) / len(losses):.4f}", flush=True)
            said, losses = now, []
        if now - kept > 600:
            kept = now
            keep()
    keep()
    print(f"step {networks.step}")


if options.export:
    export(options.export)
else:
    train()
