"""Numbers that Python and TypeScript both make from a name, so that fixtures hold outputs only (its twin: test/train/pattern.ts)."""

import numpy as np


def pattern(name: str, shape: tuple[int, ...], deviation: float = 1.0) -> np.ndarray:
    """Uniform f32 of mean 0 and the given standard deviation: the murmur3 finalizer over a counter, keyed by FNV-1a of `name`."""
    key = 2166136261
    for byte in name.encode():
        key = ((key ^ byte) * 16777619) & 0xFFFFFFFF
    x = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(key)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    unit = (x.astype(np.float64) + 0.5) / 4294967296.0
    return ((unit * 2 - 1) * (np.sqrt(3.0) * deviation)).astype(np.float32).reshape(shape)
