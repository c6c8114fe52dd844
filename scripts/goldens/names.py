"""The tensors of SD1.5's UNet and of kohya's LoRA for it, from diffusers' module tree without weights.

Writes test/fixtures/golden-names/sd15.json: `unet` and `lora`, name to shape, LoRA of rank 16.
"""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

# stable-diffusion-v1-5/stable-diffusion-v1-5:unet/config.json, where it is not UNet2DConditionModel's default.
SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
RANK = 16


def meta_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15)


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


def main() -> None:
    unet = meta_unet()
    tensors = {name: list(weight.shape) for name, weight in unet.named_parameters()}
    parts = {"unet": tensors, "lora": kohya(unet)}
    path = Path(__file__).resolve().parents[2] / "test/fixtures/golden-names/sd15.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f' "{part}": {{\n' + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in names.items()) + "\n }" for part, names in parts.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    parameters = sum(weight.numel() for weight in unet.parameters())
    print(f"{path.name}: {parameters:,} parameters, {len(parts['lora']) // 3} LoRA modules")


if __name__ == "__main__":
    main()
