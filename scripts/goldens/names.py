"""The tensors of SD1.5's and SDXL's UNets and of kohya's LoRA for SD1.5, from diffusers' module trees without weights.

Writes test/fixtures/golden-names/sd15.json, `unet` and `lora`, and sdxl.json, `unet`: name to shape, LoRA of rank 16.
"""

import json
import math
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

# stable-diffusion-v1-5/stable-diffusion-v1-5:unet/config.json, where it is not UNet2DConditionModel's default.
SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
# stabilityai/stable-diffusion-xl-base-1.0:unet/config.json, likewise.
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 2, 10],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
RANK = 16


def meta_unet(config: dict = SD15) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def kohya(unet: torch.nn.Module) -> dict[str, list[int]]:
    """kohya-ss/sd-scripts:networks/lora.py, LoRANetwork.create_modules with UNET_TARGET_REPLACE_MODULE and LoRAModule."""
    tensors: dict[str, list[int]] = {}
    for name, module in unet.named_modules():
        if module.__class__.__name__ != "Transformer2DModel":
            continue
        for child_name, child in module.named_modules():
            kind = child.__class__.__name__
            if kind == "Linear":
                down, up = [RANK, child.in_features], [child.out_features, RANK]
            elif kind == "Conv2d" and child.kernel_size == (1, 1):
                down, up = [RANK, child.in_channels, 1, 1], [child.out_channels, RANK, 1, 1]
            else:
                continue
            key = f"lora_unet.{name}.{child_name}".replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": []}
    return tensors


def shapes(unet: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(weight.shape) for name, weight in unet.named_parameters()}


def write(name: str, parts: dict[str, dict[str, list[int]]]) -> None:
    path = Path(__file__).resolve().parents[2] / f"test/fixtures/golden-names/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f' "{part}": {{\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in names.items()) + "\n }" for part, names in parts.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    parameters = sum(math.prod(shape) for shape in parts["unet"].values())
    print(f"{path.name}: {len(parts['unet'])} tensors, {parameters:,} parameters, {len(parts.get('lora', {})) // 3} LoRA modules")


def main() -> None:
    sd15 = meta_unet()
    write("sd15", {"unet": shapes(sd15), "lora": kohya(sd15)})
    write("sdxl", {"unet": shapes(meta_unet(SDXL))})


if __name__ == "__main__":
    main()
