"""Writes a model of a family's full size with random fp16 weights, in the layout of the real files:

make-model.py FOLDER [--family sd1|sd2|sdxl] [--only unet] [--seed N] [--file PATH.safetensors|PATH.ckpt]

SD1.5 is 2.1 GB, SD2.1 (v, 768 px) 2.6 GB, SDXL 6.9 GB. `--file` writes the model a second time, as one file in the names of LDM or SGM.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
sys.path.insert(0, str(GOLDENS))
from families import SCHEDULER, Family, networks_of, write_index  # noqa: E402
from names import SD15, SDXL  # noqa: E402
from tokenizer import clip_vocabulary  # noqa: E402

LDM_NAMES = GOLDENS.parents[1] / "test/fixtures/golden-names/ldm.json"
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
)


def text(width: int, layers: int, heads: int, act: str, projection: int) -> dict:
    sizes = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads)
    return dict(**sizes, hidden_act=act, projection_dim=projection, bos_token_id=49406, eos_token_id=49407)


CLIP_L = text(768, 12, 12, "quick_gelu", 768)
# stable-diffusion-v1-5/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1, stabilityai/stable-diffusion-xl-base-1.0: config.json of each.
FAMILIES = {
    "sd1": Family("StableDiffusionPipeline", SD15, CLIP_L, vae=VAE | dict(sample_size=512, scaling_factor=0.18215)),
    "sd2": Family(
        "StableDiffusionPipeline",
        dict(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
            upcast_attention=True,
        ),
        text(1024, 23, 16, "gelu", 512),
        pads=("!",),
        scheduler=dict(_class_name="DDIMScheduler", **SCHEDULER | {"prediction_type": "v_prediction"}),
        vae=VAE | dict(sample_size=768, scaling_factor=0.18215),
    ),
    "sdxl": Family(
        "StableDiffusionXLPipeline",
        SDXL,
        CLIP_L,
        text(1280, 32, 20, "gelu", 1280),
        pads=("<|endoftext|>", "!"),
        scheduler=dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", **SCHEDULER),
        vae=VAE | dict(sample_size=1024, scaling_factor=0.13025),
    ),
}


@dataclass
class Entry:
    """A tensor of f16 that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def write_tensors(path: Path, entries: list[Entry]) -> int:
    """Streams a safetensors file; returns its number of weights."""
    header, end = {}, 0
    for entry in entries:
        begin, end = end, end + 2 * torch.Size(entry.shape).numel()
        header[entry.name] = {"dtype": "F16", "shape": entry.shape, "data_offsets": [begin, end]}
    words = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    words += b" " * (-len(words) % 8)
    partial = path.with_name("partial")
    with partial.open("wb") as out:
        out.write(len(words).to_bytes(8, "little") + words)
        for entry in entries:
            out.write(entry.make().half().contiguous().numpy().data)
    partial.rename(path)
    return end // 2


def random_entries(network: torch.nn.Module, is_text: bool, seed: int) -> Iterator[Entry]:
    generator = torch.Generator().manual_seed(seed)

    def make(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5

    for name, weight in network.named_parameters():
        yield Entry(file_name(name, is_text), tuple(weight.shape), lambda name=name, shape=weight.shape: make(name, shape))


def file_name(name: str, is_text: bool) -> str:
    """transformers 5 drops a prefix that files have."""
    return f"text_model.{name}" if is_text and not name.startswith(("text_model.", "text_projection.")) else name


def weights_path(folder: Path, part: str) -> Path:
    return folder / part / ("model.safetensors" if part.startswith("text") else "diffusion_pytorch_model.safetensors")


def stored(folder: Path, part: str) -> list[Entry]:
    """A part of the folder, mapped."""
    file = safe_open(weights_path(folder, part), "pt")
    found = []
    for name in file.keys():  # noqa: SIM118
        shape = tuple(file.get_slice(name).get_shape())
        found.append(Entry(file_name(name, part.startswith("text")), shape, lambda name=name: file.get_tensor(name)))
    return found


def renamed(entries: Iterable[Entry], names: dict[str, str], prefix: str) -> Iterator[Entry]:
    """`names`: of modules, without what is below `.transformer_blocks`."""
    for entry in entries:
        module, kind = entry.name.rsplit(".", 1)
        head, dot, tail = module.partition(".transformer_blocks.")
        shape = entry.shape
        if ".attentions." in module and not dot and len(shape) == 2 and names[module].split(".")[-1] in ("q", "k", "v", "proj_out"):
            shape = (*shape, 1, 1) if prefix.startswith("first_stage") else shape
        below = names.get(head + ".proj_in", "").removesuffix(".proj_in")
        yield Entry(f"{prefix}{below + dot + tail if dot else names[module]}.{kind}", shape, entry.make)


def openclip(entries: list[Entry], names: dict[str, str], prefix: str) -> Iterator[Entry]:
    """Queries, keys and values as one matrix; the projection transposed; embeddings and biases by their own names."""
    known = {entry.name: entry for entry in entries}
    for name, entry in known.items():
        module, kind = name.rsplit(".", 1)
        if name.endswith(("k_proj." + kind, "v_proj." + kind)):
            continue
        if name == "text_projection.weight":
            yield Entry(f"{prefix}text_projection", entry.shape[::-1], lambda entry=entry: entry.make().T)
        elif module.endswith("q_proj"):
            layer = names["text_model.encoder.layers.0.self_attn.out_proj"].replace(".0.", f".{module.split('.')[3]}.")
            three = [known[name.replace("q_proj", word)] for word in ("q_proj", "k_proj", "v_proj")]
            shape = (3 * entry.shape[0], *entry.shape[1:])
            joined = f"{prefix}{layer.removesuffix('out_proj')}in_proj_{kind}"
            yield Entry(joined, shape, lambda three=three: torch.cat([each.make() for each in three]))
        else:
            number = module.split(".")[3] if ".layers." in module else ""
            theirs = names[module.replace(f".layers.{number}.", ".layers.0.") if number else module].replace(".0.", f".{number}.")
            yield Entry(prefix + theirs + ("" if theirs == "positional_embedding" else f".{kind}"), entry.shape, entry.make)


def single(folder: Path, key: str) -> list[Entry]:
    names = json.loads(LDM_NAMES.read_text())
    all_of = [
        *renamed(stored(folder, "unet"), names["sdxl" if key == "sdxl" else "sd15"], "model.diffusion_model."),
        *renamed(stored(folder, "vae"), names["vae"], "first_stage_model."),
    ]
    text = stored(folder, "text_encoder")
    if key == "sd2":
        entries = list(openclip(text, names["openclip"], "cond_stage_model.model."))
        # Files have a layer after the one that is used.
        last = [Entry(x.name.replace("blocks.22.", "blocks.23."), x.shape, x.make) for x in entries if "blocks.22." in x.name]
        return [*all_of, *entries, *last]
    prefix = "conditioner.embedders.0.transformer." if key == "sdxl" else "cond_stage_model.transformer."
    all_of += [Entry(prefix + entry.name, entry.shape, entry.make) for entry in text]
    if key == "sdxl":
        all_of += openclip(stored(folder, "text_encoder_2"), names["openclip"], "conditioner.embedders.1.model.")
    return all_of


def write_folder(folder: Path, family: Family, seed: int, only: str | None) -> None:
    counts = {}
    with torch.device("meta"):  # without weights
        networks = networks_of(family)
    for part, network in networks.items():
        if only not in (None, part):
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        if part.startswith("text"):
            network.config.save_pretrained(folder / part)
        else:
            network.save_config(folder / part)
        counts[part] = write_tensors(weights_path(folder, part), list(random_entries(network, part.startswith("text"), seed + len(counts))))
    print(json.dumps({"parameters": counts}))
    if only:
        return
    write_index(folder, family)
    vocab, merges = clip_vocabulary()
    for name, _ in zip(("tokenizer", "tokenizer_2"), family.pads, strict=False):
        (folder / name / "vocab.json").write_text(json.dumps(vocab))
        (folder / name / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def write_file(folder: Path, key: str, path: Path) -> None:
    entries = single(folder, key)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": {entry.name: entry.make().reshape(entry.shape).contiguous() for entry in entries}}, path)
    else:
        write_tensors(path, entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="sd1")
    parser.add_argument("--only", help="the one network to write, e.g. unet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, help="write the folder's model as one file, which is made first where it is not there")
    given = parser.parse_args()
    if not (given.file and (given.folder / "model_index.json").exists()):
        write_folder(given.folder, FAMILIES[given.family], given.seed, given.only)
    if given.file:
        write_file(given.folder, given.family, given.file)


if __name__ == "__main__":
    main()
