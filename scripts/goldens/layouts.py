"""The whole golden models as single files, in names and containers that others wrote: layouts.py DIFFUSERS [MODEL…], a
checkout of huggingface/diffusers, whose scripts/convert_diffusers_to_original_*.py do the naming. What those leave out is what files on model sites have
beside it: leftovers of training, markers. Each file is read back with diffusers' own converters. Writes
test/fixtures/single-files/*.hollow.gz (hollow.py); test/train/hollow.ts fills them.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from families import FAMILIES, build_family
from hollow import Drawn, hollow
from irregular import UNETS, build_irregular
from make import BUILT, FIXTURES

Tensors = dict[str, torch.Tensor]
FILES = BUILT / "single-files"
FOLDERS = FILES / "folders"
HEADS = "cond_stage_model.transformer.text_model."
SPEC = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.title": "A random model",
    "modelspec.resolution": "1024x1024",
    "modelspec.prediction_type": "epsilon",
}


def load_script(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(folder: Path, network: str) -> Tensors:
    return load_file(next((folder / network).glob("*.safetensors")))


def named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def prefixed_text(tensors: Tensors) -> Tensors:
    """With the prefix that transformers 5 drops from CLIPTextModel."""
    return {name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": tensor for name, tensor in tensors.items()}


def openclip_extras(text: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}logit_scale": torch.tensor(4.6052), f"{prefix}attn_mask": torch.full((77, 77), float("-inf")).triu(1)} | text


def training_leftovers() -> Tensors:
    """Tensors of latent-diffusion's modules that are no weights of a network."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    schedule = {"betas": betas, "alphas_cumprod": alphas, "sqrt_alphas_cumprod": alphas.sqrt()}
    moving = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    copy = {"model_ema.diffusion_modelinput_blocks00weight": torch.zeros(64, 4, 3, 3), "model_ema.diffusion_modelout2bias": torch.zeros(4)}
    return {name: value.float() for name, value in schedule.items()} | moving | copy | {"first_stage_model.loss.logvar": torch.zeros(())}


def sd1(folder: Path, scripts: dict[str, types.ModuleType]) -> Tensors:
    text = named("cond_stage_model.transformer.", prefixed_text(part(folder, "text_encoder")))
    return (
        training_leftovers()
        | named("model.diffusion_model.", scripts["sd"].convert_unet_state_dict(part(folder, "unet")))
        | named("first_stage_model.", scripts["sdxl"].convert_vae_state_dict(part(folder, "vae")))
        | {f"{HEADS}embeddings.position_ids": torch.arange(77)[None]}
        | text
    )


def sd2(folder: Path, scripts: dict[str, types.ModuleType]) -> Tensors:
    text = scripts["sd"].convert_text_enc_state_dict_v20(named("transformer.", prefixed_text(part(folder, "text_encoder"))))
    # As in a folder, without OpenCLIP's last layer, which readers know by its number alone; files have a projection that is not used.
    text = openclip_extras(text | {"text_projection": torch.eye(128).half()}, "")
    return (
        named("model.diffusion_model.", scripts["sd"].convert_unet_state_dict(part(folder, "unet")))
        | named("first_stage_model.", scripts["sdxl"].convert_vae_state_dict(part(folder, "vae")))
        | named("cond_stage_model.model.", text)
    )


def sdxl(folder: Path, scripts: dict[str, types.ModuleType], own_projection: bool = True) -> Tensors:
    """`own_projection`: OpenCLIP's, [width, projection]; otherwise the linear layer's weight that diffusers' script leaves there."""
    second = scripts["sdxl"].convert_openclip_text_enc_state_dict(part(folder, "text_encoder_2"))
    if own_projection:
        second["text_projection"] = second.pop("text_projection.weight").T.contiguous()
        second = openclip_extras(second, "")
    first = prefixed_text(part(folder, "text_encoder"))
    return (
        named("model.diffusion_model.", scripts["sdxl"].convert_unet_state_dict(part(folder, "unet")))
        | named("first_stage_model.", scripts["sdxl"].convert_vae_state_dict(part(folder, "vae")))
        | named("conditioner.embedders.0.transformer.", {"text_model.embeddings.position_ids": torch.arange(77)[None]} | first)
        | named("conditioner.embedders.1.model.", second)
    )


def check(folder: Path, tensors: Tensors) -> None:
    """diffusers' reader finds the folder's UNet and VAE in them."""
    for network, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        config = json.loads((folder / network / "config.json").read_text())
        found, wanted = convert(dict(tensors), config), part(folder, network)
        assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())[:8]
        assert all(torch.equal(found[name].view_as(tensor), tensor) for name, tensor in wanted.items())


def checkpoint(tensors: Tensors) -> dict:
    """What pytorch-lightning saves, with an object that only its own code could make again."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callbacks = types.ModuleType(name)
    callbacks.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules |= {"pytorch_lightning": types.ModuleType("pytorch_lightning"), name: callbacks}
    state = {callbacks.ModelCheckpoint: {"monitor": "val/loss_simple_ema", "best_model_score": torch.tensor(0.125), "dirpath": None}}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(64, 4, 3, 3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    about = {"epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2"}
    return about | {"state_dict": tensors, "callbacks": state, "optimizer_states": [optimizer], "lr_schedulers": [{"last_epoch": 7}]}


def cast(tensors: Tensors, dtype: torch.dtype, keep: tuple[str, ...] = ()) -> Tensors:
    """What is f16 becomes `dtype`, but for names that begin so."""
    return {name: x.to(dtype) if x.dtype == torch.float16 and not name.startswith(keep) else x for name, x in tensors.items()}


class Writer:
    def __init__(self, drawn: list[Drawn]):
        self.drawn = drawn
        FILES.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, tensors: Tensors) -> None:
        to = FIXTURES / f"single-files/{name}.hollow.gz"
        hollow(FILES / name, to, tensors.values(), self.drawn)
        print(f"{name}: {(FILES / name).stat().st_size / 1e6:.1f} MB, hollow {to.stat().st_size / 1e3:.1f} kB")

    def safetensors(self, name: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FILES / name, metadata)
        self.put(name, tensors)

    def pickle(self, name: str, tensors: Tensors, whole: object, legacy: bool = False) -> None:
        torch.save(whole, FILES / name, _use_new_zipfile_serialization=not legacy)
        self.put(name, tensors)


def write_sd1(folder: Path, scripts: dict[str, types.ModuleType], writer: Writer) -> None:
    tensors = sd1(folder, scripts)
    check(folder, tensors)
    writer.safetensors("sd1.safetensors", tensors, {"format": "pt"})
    wide = cast(tensors, torch.float32)
    writer.pickle("sd1.ckpt", wide, checkpoint(wide))
    writer.pickle("sd1-legacy.ckpt", tensors, tensors, legacy=True)
    writer.safetensors("sd1-e5m2.safetensors", cast(tensors, torch.float8_e5m2))
    vae = {name.removeprefix("first_stage_model."): x for name, x in tensors.items() if name.startswith("first_stage_model.")}
    writer.safetensors("vae.safetensors", vae)
    writer.pickle("vae.pt", vae, {"epoch": 0, "state_dict": vae})


def write_sd2(folder: Path, scripts: dict[str, types.ModuleType], writer: Writer) -> None:
    tensors = sd2(folder, scripts)
    check(folder, tensors)
    writer.safetensors("sd2.safetensors", tensors)
    writer.pickle("sd2.ckpt", tensors, {"state_dict": tensors})


def write_sdxl(folder: Path, scripts: dict[str, types.ModuleType], writer: Writer) -> None:
    tensors = sdxl(folder, scripts)
    check(folder, tensors)
    writer.safetensors("sdxl.safetensors", tensors, SPEC)
    writer.pickle("sdxl.ckpt", tensors, {"state_dict": tensors, "global_step": 7})
    markers = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    eight = cast(sdxl(folder, scripts, own_projection=False), torch.float8_e4m3fn, ("first_stage_model.",))
    writer.safetensors("sdxl-v-e4m3.safetensors", markers | eight)


def write_irregular(name: str, scripts: dict[str, types.ModuleType]) -> None:
    """A UNet alone."""
    folder = FOLDERS / name
    writer = Writer(build_irregular(folder, name))
    unet = scripts["sdxl"].convert_unet_state_dict(part(folder, "unet"))
    writer.safetensors(f"{name.removeprefix('golden-')}.safetensors", named("model.diffusion_model.", unet))


def main(diffusers: Path, models: list[str]) -> None:
    names = {"sd": "convert_diffusers_to_original_stable_diffusion", "sdxl": "convert_diffusers_to_original_sdxl"}
    scripts = {key: load_script(diffusers / f"scripts/{name}.py") for key, name in names.items()}
    writers = {"golden-sd1-model": write_sd1, "golden-sd2": write_sd2, "golden-sdxl-model": write_sdxl}
    for model in models or [*writers, *UNETS]:
        if model in UNETS:
            write_irregular(model, scripts)
            continue
        folder = FOLDERS / model
        writers[model](folder, scripts, Writer(build_family(folder, FAMILIES[model])))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
