"""A random model of the SD1 architecture, small enough to commit: every kind of block and no weight that leaves a path unused."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from hollow import Drawn

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
# SDXL: no attention in the first block, one and two transformer layers in the others, heads of one size, text_time.
SDXL_UNET = dict(
    sample_size=16,
    block_out_channels=(8, 8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    transformer_layers_per_block=[1, 1, 2],
    attention_head_dim=[1, 1, 2],
    cross_attention_dim=12,
    norm_num_groups=4,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=60,
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


# What goes through the residual stream is small, so that the epsilon of every norm that reads it shows in the result.
QUIET = 0.03
WRITES_STREAM = ("conv_in", "conv2", "proj_in", "proj_out", "to_out.0", "ff.net.2", "out_proj", "fc2", "token_embedding", "position_embedding")
CARRIES_STREAM = ("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")


@torch.no_grad()
def randomize(module: torch.nn.Module, prefix: str) -> list[Drawn]:
    """No weight is 0 or 1, none leaves a path unused: norms and biases are far from their usual values."""
    drawn = []
    for name, weight in module.named_parameters():
        layer, kind = name.rsplit(".", 1)
        if "norm" in layer and kind == "weight":
            mean, deviation = 1.0, 0.3
        elif kind == "bias":
            mean, deviation = 0.0, 0.2
        elif layer.endswith("embedding"):
            mean, deviation = 0.0, 1.0
        else:
            sharper = 1.5 if layer.endswith(("to_q", "q_proj")) else 1.0
            mean, deviation = 0.0, sharper / weight[0].numel() ** 0.5
        if layer.endswith(WRITES_STREAM) or (kind == "bias" and layer.endswith(CARRIES_STREAM)):
            deviation *= QUIET
        drawn.append(Drawn(f"{prefix}.{name}", tuple(weight.shape), mean, deviation))
        weight.copy_(drawn[-1].value())
    return drawn


def build_unet(folder: Path, config: dict) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    unet = UNet2DConditionModel(**config)
    randomize(unet, "unet")
    unet.half().save_pretrained(folder / "unet")


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
