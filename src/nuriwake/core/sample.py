"""Sample: an image, its target and where it came from."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.targets import Size, Target

IMAGE_DTYPES = tuple(np.dtype(kind) for kind in ("uint8", "uint16", "float32"))


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with what is known of it.

    Args:
        image: (H, W, C), uint8, uint16 or float32; RGB where C is 3.
        target: the truth, of the image's size; None when there is none.
        name: unique in its data set; the path relative to the image folder without its suffix, with `/`.
        source: the image file; None when it was made in memory.
        spacing: the size of a pixel, (height, width), in whatever unit distances are wanted in.

    Raises:
        UserError: wrong dtype or shape, or a target of another size than the image.
    """

    image: np.ndarray
    target: Target | None = None
    name: str = field(default="", kw_only=True)
    source: Path | None = field(default=None, kw_only=True)
    spacing: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        who = f"{self.source or self.name or 'The image'}: "
        if self.image.ndim != 3 or 0 in self.image.shape:
            raise UserError(f"{who}an image has the shape (H, W, C), none of them 0, found {self.image.shape}.")
        if self.image.dtype not in IMAGE_DTYPES:
            raise UserError(f"{who}an image is uint8, uint16 or float32, found {self.image.dtype}.")
        if self.target is not None and self.target.size != self.size:
            raise UserError(
                f"{who}the mask is {_size(self.target.size)} pixels (height x width) but the image is {_size(self.size)}; "
                "they must be equal. Was one of them resized or rotated?"
            )

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
