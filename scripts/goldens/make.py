"""Goldens: what diffusers + peft compute for small models, checked against in test/train/golden.test.ts, test/train/families.test.ts, test/train/irregular.test.ts and
test/native/goldens.cc: make.py [NAME…], all without a name.

The outputs are computed in f64 on the stored f16 weights and kept as f32; the same in f32 gives the error that the
reference itself makes, and so does mixed precision in fp16; both are kept in the metadata. Inputs are made from their names on both sides (pattern.py).
Run it again (`npm run goldens`) whenever a model changes: each file names the sha256 of the UNet it was made from.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import torch
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

import model
import names
from families import FAMILIES, build_family, write_index
from hollow import Drawn, hollow
from irregular import UNETS, IrregularCase, IrregularReference, build_irregular
from reference import Case, Reference, ReferenceXL
from reference_family import FamilyCase, FamilyReference

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "test/fixtures"
TINY = ROOT / "examples/tiny-sd"
# Whole models, as diffusers reads them; the fixtures are hollow.
BUILT = ROOT / "build/goldens"


# One loss scale is one way to round all gradients: how far mixed precision is off shows in several. The tests' own scale is the first.
LOSS_SCALES = [1024 * 2 ** (i / 4) for i in range(4)]


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-300))


def group(name: str) -> str:
    return name.split("/")[0]


def errors(values: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest of each group."""
    found: dict[str, float] = {}
    for name, value in truth.items():
        found[group(name)] = max(found.get(group(name), 0.0), relative(values[name], value))
    return {name: float(f"{error:.2e}") for name, error in found.items()}


def most(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    """Of each group, in any of the runs."""
    return reduce(lambda a, b: {name: max(error, b[name]) for name, error in a.items()}, runs)


def write(folder: Path, checkpoint: Path, case: Case, reference: type[Reference] = Reference) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    truth = reference(checkpoint, case, torch.float64).everything()
    naive = errors(reference(checkpoint, case, torch.float32).everything(), truth)
    mixed = most(errors(reference(checkpoint, case, torch.float32, scale).everything(), truth) for scale in LOSS_SCALES)
    unet = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    about = {
        "unet_sha256": hashlib.sha256(unet.read_bytes()).hexdigest(),
        "case": case.__dict__,
        "naive_f32_error": naive,
        "naive_f16_error": mixed,
    }
    save_file({name: value.float().contiguous() for name, value in truth.items()}, folder / "golden.safetensors", {"golden": json.dumps(about)})
    print(folder.relative_to(ROOT), f"{(folder / 'golden.safetensors').stat().st_size / 1e6:.2f} MB, error of f32 and of mixed precision against f64:")
    for name, error in naive.items():
        print(f"  {name:24} {error:.1e} {mixed[name]:.1e}")


def sd1() -> None:
    small = FIXTURES / "golden-sd1/model"
    model.build(small, TINY)
    write(FIXTURES / "golden-sd1", small, Case(rank=4, alpha=2, deviation=0.08, latents=(2, 8, 12), pixels=(2, 32, 48), max_grad_norm=0.56))


def sdxl() -> None:
    xl = FIXTURES / "golden-sdxl/model"
    model.build_unet(xl, model.SDXL_UNET)
    drawn = Case(rank=2, alpha=1, deviation=0.08, latents=(2, 8, 12), pixels=(0, 0, 0))
    write(FIXTURES / "golden-sdxl", xl, drawn, ReferenceXL)


def tiny_sd() -> None:
    write(FIXTURES / "golden-tiny-sd", TINY, Case(rank=2, alpha=3, deviation=0.05, latents=(2, 16, 12), pixels=(1, 64, 48), max_grad_norm=0.07))


def copy_hollow(built: Path, folder: Path, drawn: list[Drawn]) -> None:
    """Copies configs, and hollow weights, of a model's networks."""
    shutil.rmtree(folder, ignore_errors=True)
    for config in built.glob("*/config.json"):
        part = config.parent.name
        (folder / part).mkdir(parents=True)
        shutil.copyfile(config, folder / part / config.name)
        for weights in config.parent.glob("*.safetensors"):
            hollow(weights, folder / part / f"{weights.name}.hollow.gz", load_file(weights).values(), drawn)


def family(name: str) -> None:
    folder, built = FIXTURES / name, BUILT / name
    copy_hollow(built, folder / "model", build_family(built, FAMILIES[name]))
    write_index(folder / "model", FAMILIES[name])
    write(folder, built, FamilyCase(rank=2, alpha=1, deviation=0.08, latents=(2, 8, 16), pixels=(1, 32, 48)), FamilyReference)


def irregular(name: str) -> None:
    folder, built = FIXTURES / name, BUILT / name
    copy_hollow(built, folder / "model", build_irregular(built, name))
    write(folder, built, IrregularCase(rank=2, alpha=1, deviation=0.08, latents=(2, 8, 12), pixels=(0, 0, 0)), IrregularReference)


def main() -> None:
    logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    makers = {"golden-names": names.main, "golden-sd1": sd1, "golden-sdxl": sdxl, "golden-tiny-sd": tiny_sd}
    makers |= {name: lambda name=name: family(name) for name in FAMILIES}
    makers |= {name: lambda name=name: irregular(name) for name in UNETS}
    for name in sys.argv[1:] or makers:
        makers[name]()


if __name__ == "__main__":
    main()
