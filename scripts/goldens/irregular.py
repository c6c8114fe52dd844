"""Small UNets whose blocks differ as those of SDXL's distilled kin do, and what diffusers + peft compute for them. Committed hollow (hollow.py),
as diffusers' folders and, by layouts.py, as single files, whose readers find out all of this from shapes alone."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from families import FAMILIES
from hollow import Drawn
from model import randomize
from reference import DEFAULT, Case, ReferenceXL

# 32 of the pooled text, 6 sinusoids.
SHARED = FAMILIES["golden-sdxl-model"].unet | dict(cross_attention_dim=48, projection_class_embeddings_input_dim=32 + 6 * 256)
UNETS = {
    # As SSD-1B: one resnet in the middle, and as many layers as each transformer has left; fewer of them.
    "golden-ssd": dict(
        transformer_layers_per_block=[1, [2, 2], [3, 2]],
        reverse_transformer_layers_per_block=[[2, 2, 4], [2, 1, 1], 1],
        mid_block_type="UNetMidBlock2D",
    ),
    # As Vega, each block's transformers alike, but with nothing at all in the middle.
    "golden-vega": dict(
        transformer_layers_per_block=[1, 1, 2],
        reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], 1],
        mid_block_type=None,
    ),
}


@dataclass
class IrregularCase(Case):
    steps: int = 2


def build_irregular(folder: Path, name: str) -> list[Drawn]:
    """Writes the folder of a UNet; returns how its weights were drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    unet = UNet2DConditionModel(**SHARED | UNETS[name])
    drawn = randomize(unet, "unet")
    unet.half().save_pretrained(folder / "unet")
    return drawn


class IrregularReference(ReferenceXL):
    def everything(self) -> dict[str, torch.Tensor]:
        self.out |= {"context": self.context, "pooled": self.added["text_embeds"], "time_ids": self.added["time_ids"]}
        with torch.autocast("cpu", torch.float16, enabled=self.mixed_precision, cache_enabled=False):
            with torch.no_grad():
                self.predict("unet", self.unet(None))
                self.predict("unet_lora", self.unet(DEFAULT))
            # One adapter of each place.
            self.one_step("default", DEFAULT, lambda path: path.endswith(".transformer_blocks.0.attn2.to_v.down"))
        return self.out
