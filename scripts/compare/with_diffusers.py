"""Loads a LoRA that lorafuse trained into diffusers and draws the same image from the same latents (see compare.js).

Reads the JSON settings given as the first argument; prints one JSON line of relative errors, latents and image, with
the LoRA and without it, and how far the LoRA moves the image.
"""

import json
import sys

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

settings = json.loads(sys.argv[1])
for each in (logging, transformers_logging):
    each.set_verbosity_error()
    each.disable_progress_bar()
torch.set_num_threads(1)
ours = load_file(settings["ours"])
pipeline = DiffusionPipeline.from_pretrained(settings["model"], dtype=torch.float32)
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.set_progress_bar_config(disable=True)


def draw() -> dict[str, torch.Tensor]:
    """Channels-last: final latents as the UNet sees them, and the image in [-1, 1]."""
    latents = pipeline(
        prompt=settings["prompt"],
        negative_prompt=settings["negative"],
        latents=ours["initial"].permute(0, 3, 1, 2).contiguous(),
        height=settings["height"],
        width=settings["width"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["cfg"],
        output_type="latent",
    ).images
    with torch.no_grad():
        image = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return {"latents": latents.permute(0, 2, 3, 1), "image": image.permute(0, 2, 3, 1)}


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm())


plain = draw()
pipeline.load_lora_weights(settings["lora"], adapter_name="lora")
pipeline.set_adapters("lora", settings["scale"])
adapted = draw()


def adapted_layers(network: torch.nn.Module) -> int:
    return sum("lora_A" in name and name.endswith("weight") for name, _ in network.named_parameters())


networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
errors = {
    "modules": {name: adapted_layers(network) for name, network in networks.items()},
    "withoutLora": {name: relative(ours[f"plain_{name}"], value) for name, value in plain.items()},
    "withLora": {name: relative(ours[f"adapted_{name}"], value) for name, value in adapted.items()},
    "loraMoves": {name: relative(plain[name], value) for name, value in adapted.items()},
}
print(json.dumps(errors))
