"""Files that torch.save writes, for test/lib/models/torch-file.test.ts: test/fixtures/pickles, and what torch loads from them.

scripts/python.sh scripts/goldens/pickles.py
"""

import collections
import json
import os
import pickle
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parents[2] / "test/fixtures/pickles"
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
}


class Hostile:
    """Would write a file if it were built."""

    def __reduce__(self):
        return (os.system, ("touch hostile-was-here",))


def expected(state: dict) -> dict:
    return {
        name: {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            **({"values": tensor.float().tolist()} if tensor.dtype.itemsize == 1 else {}),
            "bytes": bytes(tensor.contiguous().flatten().view(torch.uint8)).hex(),
        }
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and tensor.dtype in DTYPES and tensor.layout == torch.strided and tensor.is_contiguous()
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    block = torch.randn(6, 4)
    plain = collections.OrderedDict(
        f32=torch.randn(3, 2),
        f16=torch.randn(2, 3).half(),
        bf16=torch.randn(5).bfloat16(),
        f64=torch.randn(2).double(),
        ids=torch.arange(3).expand(1, -1).contiguous(),
        scalar=torch.tensor(2.5),
        part=block[2:5],
        same=block[2:5],
        conv=torch.randn(4, 2, 1, 1).contiguous(memory_format=torch.channels_last),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )
    # Every byte but for NaN and infinities.
    codes = torch.arange(256).to(torch.uint8)
    numbers = {"e4m3": codes.view(torch.float8_e4m3fn), "e5m2": codes.view(torch.float8_e5m2)}
    eight = {name: every[every.float().isfinite()] for name, every in numbers.items()}
    module = torch.nn.Linear(2, 2)
    trainer = {
        "state_dict": module.state_dict(),
        "global_step": 875000,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(2, 2)}}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}],
        "callbacks": {Hostile: 3, "module": module, "set": {1, 2}, "bytes": b"\0\1", "big": 10**40, "path": Path("/tmp")},
        "hyper": {"eval": Hostile()},
    }
    # Tensors that are no plain ones, or not where plain ones are, beside one that is.
    quantized = torch.quantize_per_tensor(torch.randn(2, 3), 0.1, 0, torch.qint8)
    odd = {"plain": torch.randn(2, 3), "quantized": quantized, "sparse": torch.eye(3).to_sparse(), "complex": torch.randn(2, 2, dtype=torch.complex64)}
    views = {"spread": torch.randn(1).expand(6), "numpy": np.arange(6.0), "few": block[:1].expand(3, 4), "tail": block.flatten()[20:], "head": block[:1]}
    files = {
        "odd": (odd | views, {}),
        "zip": (plain, {}),
        "legacy": (plain, {"_use_new_zipfile_serialization": False}),
        "eight": (eight, {}),
        "trainer": (trainer, {}),
        "trainer-legacy": (trainer, {"_use_new_zipfile_serialization": False}),
        "protocol-4": (plain, {"pickle_protocol": 4}),
        "strided": ({"whole": block, "turned": block.T}, {}),
        "module": (module, {}),
    }
    golden = {}
    for name, (value, options) in files.items():
        torch.save(value, FOLDER / f"{name}.pt", **options)
        state = value.get("state_dict", value) if isinstance(value, dict) else {}
        golden[name] = expected(state)
    (FOLDER / "plain.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    (FOLDER / "expected.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
