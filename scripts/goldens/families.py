"""Whole random models of the three families: all blocks of the real ones with as few channels as a single file of them can have, where a
reader takes it from the family that there are 32 groups and heads are 8 (SD1) or 64 wide. CLIP's vocabulary is whole, as a single file
brings none. Committed hollow (hollow.py)."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from hollow import Drawn
from model import randomize
from tokenizer import clip_vocabulary

CROSS_DOWN, PLAIN_DOWN, CROSS_UP, PLAIN_UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
VAE = dict(
    block_out_channels=(32, 32, 64, 64),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=32,
    sample_size=128,
    scaling_factor=0.18215,
)
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SCHEDULER = dict(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, trained_betas=None, prediction_type="epsilon")


def text(width: int, act: str, **more: object) -> dict:
    ids = dict(vocab_size=49408, bos_token_id=49406, eos_token_id=49407)
    sizes = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=3, num_attention_heads=width // 64)
    return dict(**ids, **sizes, max_position_embeddings=77, hidden_act=act, projection_dim=width, **more)


@dataclass(frozen=True)
class Family:
    pipeline: str
    unet: dict
    text_encoder: dict
    text_encoder_2: dict | None = None
    # What fills up the ids of a short text.
    pads: tuple[str, ...] = ("<|endoftext|>",)
    scheduler: dict = field(default_factory=lambda: dict(_class_name="PNDMScheduler", skip_prk_steps=True, **SCHEDULER))
    vae: dict = field(default_factory=lambda: VAE)


FAMILIES = {
    "golden-sd1-model": Family(
        pipeline="StableDiffusionPipeline",
        # Counted heads, 8, 8, 8 and 16 wide.
        unet=dict(sample_size=16, block_out_channels=(64, 64, 64, 128), attention_head_dim=8, cross_attention_dim=64),
        text_encoder=text(64, "quick_gelu"),
    ),
    "golden-sd2": Family(
        pipeline="StableDiffusionPipeline",
        unet=dict(
            sample_size=16,
            block_out_channels=(64, 64, 64, 128),
            attention_head_dim=[1, 1, 1, 2],
            cross_attention_dim=128,
            use_linear_projection=True,
            upcast_attention=True,
        ),
        text_encoder=text(128, "gelu"),
        pads=("!",),
        scheduler=dict(_class_name="DDIMScheduler", **SCHEDULER | {"prediction_type": "v_prediction"}),
    ),
    "golden-sdxl-model": Family(
        pipeline="StableDiffusionXLPipeline",
        unet=dict(
            sample_size=16,
            # Two channels to a group at least: one alone would lose what the timestep adds to it.
            block_out_channels=(64, 64, 128),
            down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
            up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP),
            transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[1, 1, 2],
            cross_attention_dim=192,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            # 96 of the pooled text, 6 sinusoids.
            projection_class_embeddings_input_dim=96 + 6 * 256,
        ),
        text_encoder=text(64, "quick_gelu"),
        text_encoder_2=text(128, "gelu") | {"projection_dim": 96},
        pads=("<|endoftext|>", "!"),
        scheduler=dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", **SCHEDULER),
        vae=VAE | {"scaling_factor": 0.13025},
    ),
}


def write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_index(folder: Path, family: Family) -> None:
    """The parts of a diffusers folder beside the networks and the vocabulary."""
    second = family.text_encoder_2 is not None
    index = {
        "_class_name": family.pipeline,
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", family.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if second:
        index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
        index |= {"force_zeros_for_empty_prompt": True}
    else:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler/scheduler_config.json", family.scheduler)
    for name, pad in zip(("tokenizer", "tokenizer_2"), family.pads, strict=False):
        eos = "<|endoftext|>"
        words = dict(bos_token="<|startoftext|>", eos_token=eos, unk_token=eos, pad_token=pad)
        write_json(folder / name / "tokenizer_config.json", dict(tokenizer_class="CLIPTokenizer", model_max_length=77, **words))


def networks_of(family: Family) -> dict[str, torch.nn.Module]:
    parts = {
        "unet": UNet2DConditionModel(**family.unet),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**family.text_encoder)),
        "vae": AutoencoderKL(**family.vae),
    }
    if family.text_encoder_2:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**family.text_encoder_2))
    return parts


def build_family(folder: Path, family: Family) -> list[Drawn]:
    """Writes the diffusers folder; returns how its weights were drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    drawn = []
    for name, module in networks_of(family).items():
        drawn += randomize(module, name)
        module.half().save_pretrained(folder / name)
    write_index(folder, family)
    vocab, merges = clip_vocabulary()
    for name, _ in zip(("tokenizer", "tokenizer_2"), family.pads, strict=False):
        (folder / name / "vocab.json").write_text(json.dumps(vocab))
        (folder / name / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return drawn
