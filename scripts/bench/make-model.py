"""Writes SD1.5's UNet with random fp16 weights, 1.7 GB, in the layout of the real file: make-model.py FOLDER [SEED]."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "goldens"))
from names import meta_unet  # noqa: E402


def main(folder: Path, seed: int) -> None:
    unet = meta_unet()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in unet.named_parameters():
        if weight.dim() == 1:
            value = torch.full(weight.shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            value = torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
        tensors[name] = value.half()
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_config(folder)
    partial = folder / "partial"
    save_file(tensors, partial, {"format": "pt"})
    partial.rename(folder / "diffusion_pytorch_model.safetensors")
    print(json.dumps({"parameters": sum(t.numel() for t in tensors.values())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
