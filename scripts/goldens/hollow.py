"""Files of drawn numbers are committed hollow: with zeros where the numbers were, gzipped, and before them a line of JSON that says what
belongs where. test/fixtures/hollow.ts fills them again, to the byte, so that whole models take a few kilobytes."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from pattern import pattern

# Tensors below this size stay in the file.
LEAST_BYTES = 32
TYPES = {"F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


@dataclass(frozen=True)
class Drawn:
    """How a weight is drawn. Files hold it rounded to f16, whatever type they keep it in after that."""

    name: str
    shape: tuple[int, ...]
    mean: float
    deviation: float

    def value(self) -> torch.Tensor:
        return torch.from_numpy(self.mean + pattern(self.name, self.shape, self.deviation))


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def pieces(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """A tensor, and what it may have been joined from: queries, keys and values."""
    yield tensor
    if tensor.dim() > 0 and tensor.shape[0] % 3 == 0:
        yield from tensor.chunk(3)


def hollow(path: Path, to: Path, tensors: Iterable[torch.Tensor], drawn: list[Drawn]) -> None:
    """`tensors`: those of the file, in the order of their bytes; what was not drawn stays."""
    whole = path.read_bytes()
    known: dict[bytes, tuple[Drawn, str, bool]] = {}
    tensors = list(tensors)
    used = {tensor.dtype for tensor in tensors}
    for each in drawn:
        half = each.value().half()
        for word, dtype in TYPES.items():
            if dtype in used:
                known[bytes_of(half.to(dtype))] = (each, word, False)
                if each.name.endswith("text_projection.weight"):
                    known[bytes_of(half.T.to(dtype))] = (each, word, True)
    emptied, fills, after = bytearray(whole), [], {}
    for tensor in tensors:
        for piece in pieces(tensor):
            found = bytes_of(piece)
            if len(found) < LEAST_BYTES or found not in known:
                continue
            each, word, transposed = known[found]
            # Of copies, the later one lies behind.
            offset = whole.index(found, after.get(found, 0))
            after[found] = offset + len(found)
            emptied[offset : offset + len(found)] = bytes(len(found))
            fills.append({"name": each.name, "shape": each.shape, "mean": each.mean, "deviation": each.deviation, "type": word,
                          "offset": offset, "transposed": transposed})
    about = json.dumps({"sha256": hashlib.sha256(whole).hexdigest(), "fills": fills}, separators=(",", ":"))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(gzip.compress(about.encode() + b"\n" + bytes(emptied), 9, mtime=0))
