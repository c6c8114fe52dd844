"""What both trainings share: the device, averaged weights, and a state that is replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Elsewhere bf16 is emulated, and slower than f32.
BF16 = DEVICE == "cuda" or "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=BF16)


class Average:
    """Exponential moving average of the weights: with a constant rate it makes any time a good time to stop."""

    def __init__(self, weights: list[torch.nn.Parameter]):
        self.weights = weights
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self.values, self.weights, 1 - decay)

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        for weight, value in zip(self.weights, self.values):
            weight.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in for the weights while the block runs."""
        kept = [weight.detach().clone() for weight in self.weights]
        self.copy_to_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, kept):
                    weight.copy_(value)


def save_state(state: dict, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
