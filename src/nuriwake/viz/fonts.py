"""Text that renders: Japanese class names on images (Pillow) and in plots (matplotlib), never as empty boxes.

The font is IPAex Gothic (Latin, Greek, Cyrillic, kana, kanji), which the package matplotlib-fontja carries.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nuriwake.core.errors import RunError
from nuriwake.core.labels import Colour

SUBSTITUTE = "?"
"""What stands for a character that the font lacks (emoji, hangul, some simplified Chinese)."""

_NONCHARACTER = "\uffff"  # Unicode promises never to assign it, so every font draws its .notdef box


@cache
def font_path() -> Path:
    """The font file of matplotlib-fontja, found without importing it: importing it would change matplotlib's settings.

    Raises:
        RunError: the package is missing or holds no such file.
    """
    spec = find_spec("matplotlib_fontja")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        path = Path(folder) / "fonts" / "ipaexg.ttf"
        if path.is_file():
            return path
    raise RunError(
        "Drawing text needs the font ipaexg.ttf of the package matplotlib-fontja, which was not found; "
        "run `pip install matplotlib-fontja`."
    )


@cache
def image_font(size: int) -> ImageFont.FreeTypeFont:
    """The font for drawing on images with Pillow, `size` pixels high."""
    return ImageFont.truetype(str(font_path()), size)


@cache
def plot_family() -> tuple[str, ...]:
    """Family names for matplotlib's `font.family`: its own font first, then ours for what that lacks."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(str(font_path()))
    return "DejaVu Sans", font_manager.FontProperties(fname=str(font_path())).get_name()


@cache
def has_glyph(character: str) -> bool:
    """Whether the font has its own picture of `character` (blank ones such as the space count)."""
    return not character.isprintable() or _picture(character) != _picture(_NONCHARACTER)


def printable(text: str) -> str:
    """`text` as one line the font can draw: composed (NFC), control characters as spaces, unknown ones as `SUBSTITUTE`."""
    composed = unicodedata.normalize("NFC", text)
    visible = (character if character.isprintable() else " " for character in composed)
    return "".join(character if has_glyph(character) else SUBSTITUTE for character in visible)


def shorten(text: str, size: int, width: int) -> str:
    """`text` made printable and, when wider than `width` pixels at font size `size`, cut with an ellipsis."""
    text, font = printable(text), image_font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def text_width(text: str, size: int) -> int:
    """How many pixels wide `text` is at font size `size`."""
    return int(np.ceil(image_font(size).getlength(printable(text))))


def draw_text(canvas: np.ndarray, text: str, *, top: int, left: int, size: int, colour: Colour) -> None:
    """Draw one line of `text` into `canvas` (H, W, 3) uint8, in place; what lies outside the canvas is cut off.

    Args:
        top, left: pixels of the upper left corner of the line; the line is `line_height(size)` high.
        size: font size in pixels.
    """
    text = printable(text)
    height, width = canvas.shape[:2]
    patch = canvas[max(top, 0) : min(top + line_height(size), height), max(left, 0) : left + text_width(text, size) + 1]
    if patch.size == 0 or left >= width:
        return
    picture = Image.fromarray(patch)
    offset = min(left, 0), min(top, 0)
    ImageDraw.Draw(picture).text(offset, text, fill=colour, font=image_font(size))
    patch[...] = np.asarray(picture)


def line_height(size: int) -> int:
    """Pixels from one line of text to the next at font size `size`."""
    return round(size * 1.35)


def font_subset(characters: Iterable[str]) -> bytes:
    """A WOFF font with just those of `characters` that the font has; empty without any.

    For documents that must show them on machines without such a font (the IPA Font License allows embedding in documents).
    """
    wanted = sorted({ord(character) for character in characters if has_glyph(character)})
    if not wanted:
        return b""
    from fontTools import subset

    options = subset.Options(flavor="woff", layout_features=[], notdef_outline=True, recalc_timestamp=False)
    font = subset.load_font(str(font_path()), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=wanted)
    cutter.subset(font)
    buffer = BytesIO()
    font.save(buffer)
    return buffer.getvalue()


def _picture(character: str) -> bytes:
    picture = Image.new("L", (48, 48))
    ImageDraw.Draw(picture).text((4, 4), character, fill=255, font=image_font(32))
    return picture.tobytes()
