"""The pictures: emoji with alpha, placed at random on plain backgrounds, and captions that say what is where."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 27),
    "gray": (161, 161, 170),
    "red": (220, 38, 38),
    "orange": (251, 146, 60),
    "yellow": (250, 204, 21),
    "green": (34, 160, 84),
    "teal": (20, 184, 166),
    "sky blue": (125, 200, 252),
    "blue": (37, 99, 235),
    "purple": (147, 51, 234),
    "pink": (249, 168, 212),
    "brown": (120, 80, 50),
}
NAMES = list(BACKGROUNDS)
COLOURS = torch.tensor(list(BACKGROUNDS.values())) / 255
# White is six times as frequent as any other background.
FREQUENCIES = torch.tensor([6.0] + [1.0] * (len(NAMES) - 1))
TEMPLATES = ["{a}", "{a} emoji", "a flat emoji of {a}", "{name}", "a drawing of {a}"]
# Words that mean nothing to the base model: it draws what follows all the same, and a LoRA can give them a meaning.
STYLES = ["3d", "3d", "3d", "glossy", "pixel", "sketch", "watercolor", "shaded", "sks", "xyz", "color", "photo"]
STYLED = 0.35


def concepts(data: Path, every: bool = False) -> list[dict]:
    """Rows of index.json: those of concepts.json, which the UNet learns, or every one."""
    rows = json.loads((data / "index.json").read_text())
    keep = set(json.loads(Path(__file__).with_name("concepts.json").read_text()))
    return [row for row in rows if every or row["key"] in keep]


def load(data: Path, style: str, rows: list[dict]) -> torch.Tensor:
    """uint8 [N, S, S, 4]; rows without a picture in this style are left out."""
    files = [data / style / f"{row['key']}.png" for row in rows]
    return torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGBA")) for file in files if file.exists()]))


def pick_backgrounds(count: int, generator: torch.Generator) -> torch.Tensor:
    """Indices into NAMES [count]."""
    return torch.multinomial(FREQUENCIES, count, True, generator=generator)


def place(rgba: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Premultiplied [B, 4, S, S], each scaled to 80 to 98 %, moved inside the picture and mirrored or not."""
    count = len(rgba)
    zoom = 1 / (0.8 + 0.18 * torch.rand(count, generator=generator))
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    room = 0.5 * zoom * (1 - 1 / zoom).clamp(min=0)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = zoom * mirror
    transform[:, 1, 1] = zoom
    transform[:, 0, 2] = (torch.rand(count, generator=generator) * 2 - 1) * room
    transform[:, 1, 2] = (torch.rand(count, generator=generator) * 2 - 1) * room
    grid = torch.nn.functional.affine_grid(transform, rgba.shape, align_corners=False)
    return torch.nn.functional.grid_sample(rgba, grid, mode="bilinear", align_corners=False)


def compose(pictures: torch.Tensor, backgrounds: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """uint8 [B, S, S, 4] and indices [B] to [B, 3, S, S] in [-1, 1]; placed at random where there is a generator."""
    rgba = pictures.float().permute(0, 3, 1, 2) / 255
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    if generator is not None:
        rgba = place(rgba, generator)
    behind = COLOURS[backgrounds][:, :, None, None]
    return (rgba[:, :3] + behind * (1 - rgba[:, 3:])) * 2 - 1


def caption(name: str, background: int) -> str:
    """One of the templates, or a style; in four of five cases with the background."""
    a = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    styled = random.random() < STYLED
    words = f"a {random.choice(STYLES)} emoji of {a}" if styled else random.choice(TEMPLATES).format(a=a, name=name)
    return words + (f" on a {NAMES[background]} background" if random.random() < 0.8 else "")


def save_grid(images: torch.Tensor, columns: int, path: Path) -> None:
    """[B, 3, S, S] in [-1, 1] as one PNG, row by row."""
    count, _, height, width = images.shape
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    grid = np.full((-(-count // columns) * height, columns * width, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        row, column = divmod(i, columns)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    Image.fromarray(grid).save(path)
