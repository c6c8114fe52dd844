"""Names of modules in LDM's and SGM's checkpoints, as diffusers' own scripts write them.

scripts/python.sh scripts/goldens/ldm_names.py DIFFUSERS writes test/fixtures/golden-names/ldm.json: per network, diffusers' path of a module
to LDM's, transformer blocks left out, which both name alike. DIFFUSERS: a clone of huggingface/diffusers, whose package lacks the scripts.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from names import SDXL, meta_unet

# stable-diffusion-v1-5/stable-diffusion-v1-5:vae/config.json
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
)


class Name(str):
    """A name in the place of a tensor, which the scripts reshape."""

    ndim = 1
    shape = (1,)

    def reshape(self, *_: int) -> "Name":
        return self


def script(clone: str, name: str):
    spec = importlib.util.spec_from_file_location(name, Path(clone) / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pairs(network: torch.nn.Module, convert, prefix: str = "") -> dict[str, str]:
    names = [prefix + name for name, _ in network.named_parameters() if "_proj." not in name or "out_proj" in name or "time_emb_proj" in name]
    modules = lambda name: name.removesuffix(".weight").removesuffix(".bias")
    converted = {modules(ours): modules(theirs) for theirs, ours in convert({name: Name(name) for name in names}).items()}
    return {str(ours): theirs for ours, theirs in sorted(converted.items()) if ".transformer_blocks." not in ours}


def main() -> None:
    sd = script(sys.argv[1], "convert_diffusers_to_original_stable_diffusion")
    sdxl = script(sys.argv[1], "convert_diffusers_to_original_sdxl")
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
        clip = CLIPTextModel(CLIPTextConfig(num_hidden_layers=2))
    networks = {
        "sd15": pairs(meta_unet(), sd.convert_unet_state_dict),
        "sdxl": pairs(meta_unet(SDXL), sdxl.convert_unet_state_dict),
        "vae": pairs(vae, sd.convert_vae_state_dict),
        "openclip": pairs(clip, sdxl.convert_openclip_text_enc_state_dict, "text_model."),  # transformers 5 drops it
    }
    path = Path(__file__).resolve().parents[2] / "test/fixtures/golden-names/ldm.json"
    path.write_text(json.dumps(networks, indent=1) + "\n")


if __name__ == "__main__":
    main()
