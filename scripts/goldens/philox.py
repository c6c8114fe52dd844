"""The numbers that lib/random.ts draws: Philox 4x32-10 at a counter (block, index, step, 0) under the key (seed, stream)."""

import numpy as np

STREAMS = {"latents": 8, "ancestral": 9}
LOW = np.uint64(0xFFFFFFFF)


def words(seed: int, stream: str, step: int, count: int) -> np.ndarray:
    blocks = -(-count // 4)
    x0, x1, x2, x3 = (np.full(blocks, value, np.uint64) for value in (0, 0, step, 0))
    x0 = np.arange(blocks, dtype=np.uint64)
    k0, k1 = seed, STREAMS[stream]
    for _ in range(10):
        first, second = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0 = (second >> np.uint64(32)) ^ x1 ^ np.uint64(k0)
        x2 = (first >> np.uint64(32)) ^ x3 ^ np.uint64(k1)
        x1, x3 = second & LOW, first & LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack((x0, x1, x2, x3), 1).reshape(-1)[:count]


def normal(seed: int, stream: str, count: int, step: int = 0) -> np.ndarray:
    """An even count of standard normal f32 (Box and Muller)."""
    drawn = (words(seed, stream, step, count) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(drawn[0::2])), 2 * np.pi * drawn[1::2]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1).reshape(-1).astype(np.float32)
