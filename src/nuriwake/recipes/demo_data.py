"""A small data set to try everything on: textured shapes on a textured ground, drawn here, the same on every machine.

The classes differ in shape and weave, and tend to a colour each, as things in photographs do: colour alone is right three times
in four, and the ground has any, so that a model has to look at neighbourhoods too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.files import write_bytes, write_json
from nuriwake.core.labels import IGNORE
from nuriwake.core.targets import Size

NAMES = ("background", "disc", "square", "triangle")
"""Label = position. Discs are dotted, squares striped, triangles chequered, the ground is cloudy."""

TINTS = {1: (165, 125, 90), 2: (90, 130, 165), 3: (150, 100, 150)}
"""Label -> the RGB about which the middle colours of a class lie."""


def draw_demo_data(
    folder: str | Path, *, train: int = 48, val: int = 12, size: Size = (160, 192), seed: int = 0
) -> Path:
    """Draw `images/{train,val}/*.jpg`, `masks/{train,val}/*.png` and `classes.json` into `folder`. Returns the folder.

    Drawing again with the same arguments writes the same files. Masks hold labels 0..3 and `IGNORE` on a thin rim around
    each shape, where the weave cannot be told.

    Raises:
        UserError: the folder holds other files, which a reader would take for part of the data set; or a number is too small.
    """
    folder = Path(folder)
    if min(train, val) < 1 or min(size) < 32:
        raise UserError(f"Demo data need an image per split and 32 pixels per side, found {train}, {val} and {size}.")
    counts = {"train": train, "val": val}
    _refuse_strangers(folder, {"classes.json", *_paths(counts)})
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            image, mask = draw_scene(np.random.default_rng([seed, number, index]), size)
            write_bytes(folder / _mask_path(split, index), _encoded(mask, ".png", []))
            bgr = np.ascontiguousarray(image[..., ::-1])
            write_bytes(folder / _image_path(split, index), _encoded(bgr, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92]))
    write_json(folder / "classes.json", {"classes": list(NAMES), "ignore_index": IGNORE})
    return folder


def draw_scene(random: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """One image, uint8 RGB (H, W, 3), with two to four shapes, and its label map, uint8 (H, W)."""
    weave = _clouds(random, size)
    image, mask = _coloured(random, weave), np.zeros(size, np.uint8)
    for _ in range(random.integers(2, 5)):
        label = int(random.integers(1, len(NAMES)))
        inside = _DRAWN[label](random, size)
        image[inside] = _coloured(random, _WEAVES[label](random, size), TINTS[label])[inside]
        mask[inside] = label
        rim = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)).astype(bool)
        mask[rim] = IGNORE
    noisy = image + random.normal(0, 6, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _coloured(random: np.random.Generator, weave: np.ndarray, tint: tuple[int, int, int] | None = None) -> np.ndarray:
    """`weave` (H, W) in 0..1 between two random colours -> float64 (H, W, 3), 0..255.

    The colours lie either side of a random middle, near `tint` or anywhere, so that dark and light are no sign of a class.
    """
    middle = random.uniform(70, 185, 3) if tint is None else np.array(tint) + random.uniform(-35, 35, 3)
    apart = random.uniform(35, 65, 3) * random.choice((-1, 1))
    return middle + (weave[..., None] - 0.5) * 2 * apart


def _place(random: np.random.Generator, size: Size) -> tuple[np.ndarray, float]:
    """Centre (x, y) and radius of a shape that lies mostly inside the picture."""
    radius = float(random.uniform(0.18, 0.34) * min(size))
    centre = np.array([random.uniform(0.1, 0.9) * size[1], random.uniform(0.1, 0.9) * size[0]])
    return centre, radius


def _disc(random: np.random.Generator, size: Size) -> np.ndarray:
    centre, radius = _place(random, size)
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2


def _polygon(random: np.random.Generator, size: Size, corners: int) -> np.ndarray:
    centre, radius = _place(random, size)
    angles = random.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    points = centre + radius * 1.2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
    return canvas.astype(bool)


def _square(random: np.random.Generator, size: Size) -> np.ndarray:
    return _polygon(random, size, 4)


def _triangle(random: np.random.Generator, size: Size) -> np.ndarray:
    return _polygon(random, size, 3)


def _clouds(random: np.random.Generator, size: Size) -> np.ndarray:
    coarse = random.random((size[0] // 16 + 2, size[1] // 16 + 2)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC), 0, 1)


def _turned(random: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (H, W) along two turned axes, in periods of the weave."""
    angle, period = random.uniform(0, np.pi), random.uniform(9, 13)
    rows, columns = np.mgrid[: size[0], : size[1]] / period
    return columns * np.cos(angle) + rows * np.sin(angle), rows * np.cos(angle) - columns * np.sin(angle)


def _dots(random: np.random.Generator, size: Size) -> np.ndarray:
    along, across = _turned(random, size)
    return ((along % 1 - 0.5) ** 2 + (across % 1 - 0.5) ** 2 < 0.09).astype(float)


def _stripes(random: np.random.Generator, size: Size) -> np.ndarray:
    along, _ = _turned(random, size)
    return (along % 1 < 0.5).astype(float)


def _checks(random: np.random.Generator, size: Size) -> np.ndarray:
    along, across = _turned(random, size)
    return ((along % 1 < 0.5) ^ (across % 1 < 0.5)).astype(float)


_Draw = Callable[[np.random.Generator, Size], np.ndarray]
_DRAWN: dict[int, _Draw] = {1: _disc, 2: _square, 3: _triangle}
_WEAVES: dict[int, _Draw] = {1: _dots, 2: _stripes, 3: _checks}


def _encoded(array: np.ndarray, suffix: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, array, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode an array of shape {array.shape} as {suffix}.")
    return data.tobytes()


def _image_path(split: str, index: int) -> str:
    return f"images/{split}/{index:04d}.jpg"


def _mask_path(split: str, index: int) -> str:
    return f"masks/{split}/{index:04d}.png"


def _paths(counts: dict[str, int]) -> Iterator[str]:
    for split, count in counts.items():
        for index in range(count):
            yield _image_path(split, index)
            yield _mask_path(split, index)


def _refuse_strangers(folder: Path, ours: set[str]) -> None:
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is a file; the demo data need a folder.")
        return
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    strangers = sorted(found - ours)
    if strangers:
        raise UserError(
            f"{folder} holds {len(strangers)} files that do not belong to these demo data, for instance '{strangers[0]}'; "
            "name an empty folder."
        )
