"""How far off PyTorch is in mixed precision of bf16, the VAE too: writes test/fixtures/golden-bf16.json, by golden and group of tensors, for
those that exist (make.py). As tests allow twice that, a processor with avx512_bf16 and one without may write it."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from make import FIXTURES, TINY, errors
from reference import Case, Reference, ReferenceXL

GOLDENS = {
    "golden-sd1": (FIXTURES / "golden-sd1/model", Reference),
    "golden-sdxl": (FIXTURES / "golden-sdxl/model", ReferenceXL),
    "golden-tiny-sd": (TINY, Reference),
}


class InBf16(torch.autocast):
    """In place of fp16."""

    def __init__(self, device: str, dtype: torch.dtype | None = None, **options: bool):
        super().__init__(device, torch.bfloat16, **options)


def main() -> None:
    autocast, torch.autocast = torch.autocast, InBf16
    found = {}
    for name, (checkpoint, reference) in GOLDENS.items():
        path = FIXTURES / name / "golden.safetensors"
        with safe_open(path, "pt") as file:
            case = Case(**json.loads(file.metadata()["golden"])["case"])
        in_bf16 = reference(checkpoint, case, torch.float32, loss_scale=1)
        with autocast("cpu", torch.bfloat16, cache_enabled=False):
            values = in_bf16.everything()
        found[name] = errors(values, load_file(path))
    (FIXTURES / "golden-bf16.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
