"""A random model of the SD1 architecture, small enough to commit: every kind of block and no weight that leaves a path unused."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pattern import pattern

# Channels differ per level and are odd multiples of the groups; heads are counted, not sized, as in SD1 (12, 24 and 20 wide).
UNET = dict(
    sample_size=16,
    block_out_channels=(24, 48, 40),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=2,
    attention_head_dim=2,
    cross_attention_dim=32,
    norm_num_groups=8,
)
TEXT = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, hidden_act="quick_gelu", projection_dim=32)
VAE = dict(
    block_out_channels=(8, 16, 16, 24),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=4,
    sample_size=128,
    scaling_factor=0.18215,
)


@torch.no_grad()
def randomize(module: torch.nn.Module, prefix: str) -> None:
    """Weights keep the variance of what passes through them; norms and biases are far from their usual 1 and 0."""
    for name, weight in module.named_parameters():
        key = f"{prefix}.{name}"
        if "norm" in name and name.endswith("weight"):
            value = 1 + pattern(key, weight.shape, 0.3)
        elif name.endswith("bias"):
            value = pattern(key, weight.shape, 0.2)
        elif "embedding.weight" in name:
            value = pattern(key, weight.shape, 0.7)
        else:
            sharper = 1.5 if "to_q" in name or "q_proj" in name else 1.0
            value = pattern(key, weight.shape, sharper / (weight[0].numel() ** 0.5))
        weight.copy_(torch.from_numpy(value))


def build(folder: Path, tiny: Path) -> None:
    """Writes the diffusers folder; the tokenizer and the scheduler are those of the small model in `tiny`."""
    shutil.rmtree(folder, ignore_errors=True)
    source = json.loads((tiny / "text_encoder/config.json").read_text())
    ids = {key: source[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    parts = {
        "unet": UNet2DConditionModel(**UNET),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT, **ids)),
        "vae": AutoencoderKL(**VAE),
    }
    for name, module in parts.items():
        randomize(module, name)
        module.half().save_pretrained(folder / name)
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(tiny / "tokenizer" / name, folder / "tokenizer" / name)
    shutil.copytree(tiny / "scheduler", folder / "scheduler", copy_function=shutil.copyfile)
    shutil.copyfile(tiny / "model_index.json", folder / "model_index.json")
