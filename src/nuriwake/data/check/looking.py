"""Looking at one entry: its image decoded once, and its truth. Nothing raises; what is wrong becomes a `Problem`."""

from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.data.check.entry import Entry, Listing, Truth
from nuriwake.data.check.finding import Problem
from nuriwake.data.dataset import DataSet
from nuriwake.data.headers import ImageHeader, image_header
from nuriwake.data.images import read_image
from nuriwake.data.observing import Ends

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"II", "TIFF"),
    (b"MM", "TIFF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
)
_SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WebP",
}  # fmt: skip
_GRID = 16


@dataclass(frozen=True, eq=False, slots=True)
class MaskFacts:
    """What one mask holds.

    Args:
        path, header: the file.
        values: raw values, or colours packed as r << 16 | g << 8 | b, int64 (V,) ascending; at most
            `looking_masks.MOST_VALUES`, and of colours the `looking_masks.MOST_COLOURS` most frequent ones.
        counts: pixels of each, int64 (V,).
        between: pixels of each whose neighbours are both lower and higher, int64 (V,): what smoothing makes; zeros for
            colours and 16 bits.
        coloured: channels differ.
        three: there are three channels.
        ends: how its pixels lie between 0 and 255; nothing is counted of colours and 16 bits.
    """

    path: Path
    header: ImageHeader
    values: np.ndarray
    counts: np.ndarray
    between: np.ndarray
    coloured: bool
    three: bool
    ends: Ends

    @property
    def pixels(self) -> int:
        """Of the whole mask."""
        return self.header.size[0] * self.header.size[1]


@dataclass(eq=False, slots=True)
class Facts:
    """What one entry holds.

    Args:
        header: of the image; None where it cannot be read.
        grey: an image of three channels that are all equal.
        digest: of the decoded image; b"" where it cannot be read or was not.
        hash: uint64 (4,), 256 bits of a difference hash; flat: too little is in the image for the hash to mean anything.
        masks: where the truth is masks.
        labels: label (raw value or category id before the classes are settled) -> pixels.
        objects: float32 (N, 2): label and area in pixels, of what can be counted.
        ignored: share of pixels that count nowhere; 0 where that is not known.
        known: there is truth, and it was read.
    """

    name: str
    split: str
    image: Path
    header: ImageHeader | None = None
    grey: bool = False
    digest: bytes = b""
    hash: np.ndarray = field(default_factory=lambda: np.zeros(4, np.uint64))
    flat: bool = True
    masks: tuple[MaskFacts, ...] = ()
    labels: dict[int, int] = field(default_factory=dict[int, int])
    objects: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    ignored: float = 0.0
    known: bool = False
    crowd: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])

    def tell(self, kind: str, where: object, text: str = "") -> None:
        """One more problem."""
        self.problems.append(Problem(kind, str(where), text, self.name))


@dataclass(frozen=True, eq=False)
class Look:
    """Entry -> Facts. Sent once to every worker process.

    Args:
        truth: how the truth is looked at.
        data: whose reader reads it, where it is "read".
        known: category ids of the classes.
        pixels: decode images; else their headers alone are read.
    """

    truth: Truth
    data: DataSet | None = None
    known: tuple[int, ...] = ()
    pixels: bool = True

    @classmethod
    def at(cls, listing: Listing) -> "Look":
        """How entries of `listing` are looked at."""
        return cls(listing.truth, listing.data, tuple(listing.numbers))

    def __call__(self, entry: Entry) -> Facts:
        """The facts; a fault nobody thought of is a problem too."""
        from nuriwake.data.check import looking_coco, looking_masks

        facts = Facts(entry.name, entry.split, entry.image)
        try:
            look_at_image(entry, facts, pixels=self.pixels)
            if self.truth in ("mask", "voc"):
                looking_masks.look(entry, facts, objects=self.truth == "voc")
            elif self.truth == "coco":
                looking_coco.look(entry, facts)
            elif self.truth == "panoptic":
                looking_coco.look_panoptic(entry, facts, self.known)
            elif self.data is not None and entry.record is not None:
                looking_masks.look_read(entry.record, facts, self.data)
        except MemoryError:
            raise
        except Exception as error:
            facts.tell("refused", entry.image, f"{type(error).__name__}: {error}")
        return facts


def look_at_image(entry: Entry, facts: Facts, *, pixels: bool) -> None:
    """Header, digest and hash of the image."""
    path = entry.image
    try:
        facts.header = image_header(path)
        _compare_suffix(path, facts)
        if not pixels:
            return
        image = read_image(path)
    except UserError as error:
        text = str(error).removeprefix(f"{path}: ")
        facts.header = None
        facts.tell("image_truncated" if "truncated" in text else "image_unreadable", path, text)
        return
    if image.dtype == np.float32 and not np.isfinite(image).all():
        facts.tell("image_not_finite", path, f"{int(image.size - np.isfinite(image).sum()):,} values")
        image = np.nan_to_num(image, posinf=0, neginf=0)
    if image.shape[2] == 3:
        part = image[:: max(1, len(image) // 128), :: max(1, image.shape[1] // 128)]
        facts.grey = bool((part == part[..., :1]).all())
    facts.digest = blake2b(image.data, digest_size=16).digest()
    facts.hash, facts.flat = difference_hash(image)
    if image.min() == image.max() and image.size > 1:
        facts.tell("image_blank", path, f"all values are {image.flat[0]}")


def difference_hash(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """uint64 (4,): of 16 x 16 fields, is each brighter than its right neighbour; and whether most are equally bright.

    The difference hash of N. Krawetz ("Kind of like that", hackerfactor.com, 2013) on a finer grid.
    """
    colours = min(image.shape[2], 3)
    grey = image[..., 0]
    if colours > 1:  # OpenCV's sum is ten times as fast as NumPy's mean
        weights = np.full((1, colours), 1 / colours, np.float32)
        grey = cv2.transform(np.ascontiguousarray(image[..., :colours]), weights)
    small = cv2.resize(grey.astype(np.float32), (_GRID + 1, _GRID), interpolation=cv2.INTER_AREA)
    steps = np.diff(small, axis=1)
    span = float(small.max() - small.min())
    flat = span == 0 or float((np.abs(steps) < 0.004 * span).mean()) > 0.4
    return np.packbits((steps > 0).ravel()).view(np.uint64).copy(), flat


def _compare_suffix(path: Path, facts: Facts) -> None:
    if path.suffix.lower() not in _SUFFIXES:  # a slice of a volume, which is no file of its own
        return
    with path.open("rb") as file:
        begin = file.read(4)
    real = next((name for signature, name in _SIGNATURES if begin.startswith(signature)), None)
    declared = _SUFFIXES.get(path.suffix.lower())
    if real and declared and real != declared:
        facts.tell("format_differs", path, f"named {declared}, holds {real}")


def real_suffix(path: Path) -> str:
    """The suffix that fits the contents of `path`; its own where that fits or nothing is recognised."""
    with path.open("rb") as file:
        begin = file.read(4)
    real = next((name for signature, name in _SIGNATURES if begin.startswith(signature)), None)
    if real is None or _SUFFIXES.get(path.suffix.lower()) == real:
        return path.suffix
    return next(suffix for suffix, name in _SUFFIXES.items() if name == real)
