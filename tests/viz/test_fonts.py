import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nuriwake.viz.figures import figure_bytes, new_figure, plot_style
from nuriwake.viz.fonts import (
    draw_text,
    font_path,
    font_subset,
    has_glyph,
    image_font,
    plot_family,
    printable,
    shorten,
    text_width,
)

NOTDEF = "\uffff"


def drawn(character: str) -> np.ndarray:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((8, 8), character, fill=255, font=image_font(40))
    return np.asarray(picture)


def test_japanese_glyphs_are_no_empty_boxes():
    pictures = [drawn(character) for character in "塗り分け"]
    for picture in pictures:
        assert picture.any()
        assert not np.array_equal(picture, drawn(NOTDEF))
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_draw_text_paints_the_same_glyphs_as_the_font():
    canvas = np.zeros((40, 160, 3), np.uint8)
    draw_text(canvas, "塗り分け", top=4, left=4, size=24, colour=(255, 255, 255))
    boxes = np.zeros_like(canvas)
    draw_text(boxes, "????", top=4, left=4, size=24, colour=(255, 255, 255))
    assert canvas[4:36, 4 : 4 + text_width("塗り分け", 24)].max() == 255
    assert not np.array_equal(canvas, boxes)


def test_matplotlib_draws_japanese_without_a_missing_glyph(recwarn):
    with plot_style():
        figure, (axes,) = new_figure(2, 1)
        axes.set_title("塗り分け")
    assert figure_bytes(figure, "png")
    assert not [str(warning.message) for warning in recwarn if "missing from font" in str(warning.message)]
    assert plot_family()[-1] == "IPAexGothic"


@pytest.mark.parametrize(("character", "known"), [("塗", True), ("A", True), (" ", True), ("é", True), ("😀", False)])
def test_has_glyph(character, known):
    assert has_glyph(character) is known


def test_printable_composes_replaces_and_stays_on_one_line():
    assert printable("は\u3099け") == "ばけ"  # file names from macOS come decomposed
    assert printable("a\nb\tc\x00") == "a b c "
    assert printable("cat 😀") == "cat ?"


def test_shorten_fits():
    assert shorten("short", 12, 200) == "short"
    cut = shorten("a very long class name indeed", 12, 60)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 60


@pytest.mark.parametrize(("top", "left"), [(-5, -5), (0, 0), (18, 35), (100, 0), (0, 100), (-100, 0)])
def test_text_beyond_the_canvas_is_cut(top, left):
    canvas = np.zeros((20, 40, 3), np.uint8)
    draw_text(canvas, "塗り分け", top=top, left=left, size=14, colour=(255, 0, 0))
    assert canvas.shape == (20, 40, 3)


def test_font_subset_holds_what_is_asked_and_little_else():
    from io import BytesIO

    from fontTools.ttLib import TTFont

    data = font_subset("塗り分け😀")
    assert len(data) < font_path().stat().st_size / 100
    assert set(TTFont(BytesIO(data)).getBestCmap()) == {ord(character) for character in "塗り分け"}
    assert font_subset("😀") == b""


def test_the_font_is_found_without_importing_matplotlib():
    code = "import sys; from nuriwake.viz.fonts import font_path; font_path(); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
