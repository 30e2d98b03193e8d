from importlib import import_module

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.viz import overlay
from nuriwake.viz.display import display_image, label_pixels
from nuriwake.viz.legend import Entry, draw_legend, legend_strip
from nuriwake.viz.overlay import class_entries, hatching

BINARY = LabelSpace(("background", "核"))
STUFF = LabelSpace(("sky", "road", "tree"))
LAYERS = LabelSpace(("a", "b"), exclusive=False)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def test_tint_is_the_blend_of_image_and_colour():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 1
    shown = overlay(grey(20, 20), SemanticMap(labels, BINARY), opacity=0.25, outline=False, legend=False)
    expected = 0.75 * 100 + 0.25 * np.array(BINARY.colours[1])
    assert np.abs(shown[10, 10] - expected).max() <= 1
    assert (shown[labels == 0] == 100).all(), "the background stays as it is"


def test_whatever_a_predictor_takes_can_be_drawn_on():
    array = np.random.default_rng(0).integers(0, 255, (12, 9), np.uint8)
    target = SemanticMap((array > 90).astype(np.uint8), BINARY)
    expected = overlay(array[..., None], target)
    for image in (
        array,
        Image.fromarray(array),
        Image.fromarray(array).convert("RGB"),
        Image.fromarray(array).convert("P"),
    ):
        assert np.array_equal(target.overlay(image), expected)
    turned = Image.fromarray(array).transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned clockwise
    assert np.array_equal(target.overlay(turned), expected)
    deep = Image.fromarray(array.astype(np.int32) * 200)
    assert np.array_equal(target.overlay(deep), overlay(array.astype(np.float32), target))
    with pytest.raises(UserError, match="found bool of shape"):
        target.overlay(array > 3)
    with pytest.raises(UserError, match=r"\(H, W\) or \(H, W, C\) or a Pillow image, found str"):
        target.overlay("a.png")


def test_every_class_is_tinted_without_a_background():
    labels = np.array([[0, 1, 2]], np.uint8).repeat(4, 0)
    shown = overlay(grey(4, 3), SemanticMap(labels, STUFF), opacity=1, outline=False, legend=False)
    assert np.array_equal(shown[0], np.array(STUFF.colours))


def test_outline_lies_inside_the_region():
    labels = np.zeros((30, 30), np.uint8)
    labels[10:20, 10:20] = 1
    shown = overlay(grey(30, 30), SemanticMap(labels, BINARY), opacity=0, legend=False)
    changed = (shown != 100).any(axis=2)
    expected = labels == 1
    expected[11:19, 11:19] = False
    assert np.array_equal(changed, expected)


def test_bands_leave_no_seam(monkeypatch):
    module = import_module("nuriwake.viz.overlay")  # the package gives this name to the function
    random = np.random.default_rng(0)
    labels = cv2.resize(random.integers(0, 3, (12, 9), np.uint8), (90, 131), interpolation=cv2.INTER_NEAREST)
    labels[100:, :20] = IGNORE
    image = random.integers(0, 255, (131, 90, 3), np.uint8)
    whole = overlay(image, SemanticMap(labels, STUFF))
    monkeypatch.setattr(module, "_BAND", 17)
    assert np.array_equal(overlay(image, SemanticMap(labels, STUFF)), whole)


def test_ignored_pixels_are_hatched_grey():
    labels = np.full((40, 40), IGNORE, np.uint8)
    shown = overlay(grey(40, 40), SemanticMap(labels, BINARY), opacity=1, legend=False)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 2
    assert (shown[..., 0] == shown[..., 1]).all()


def test_layers_mix_where_they_overlap():
    labels = np.zeros((10, 30, 2), np.uint8)
    labels[:, :20, 0] = 1
    labels[:, 10:, 1] = 1
    shown = overlay(grey(10, 30), SemanticMap(labels, LAYERS), outline=False, legend=False)
    left, middle, right = shown[5, 2], shown[5, 15], shown[5, 27]
    assert len({tuple(left), tuple(middle), tuple(right)}) == 3
    expected = 0.5 * left + 0.5 * np.array(LAYERS.colours[1])
    assert np.abs(middle - expected).max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 2, 3, 4, 7]),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.booleans(),
)
def test_any_image_gives_eight_bit_rgb_of_its_size(height, width, channels, dtype, exclusive):
    random = np.random.default_rng(height * 71 + width)
    image = (random.random((height, width, channels)) * (60000 if dtype == "uint16" else 250)).astype(dtype)
    before = image.copy()
    shape = (height, width) if exclusive else (height, width, 2)
    labels = random.choice(np.array([0, 1, IGNORE], np.uint8), shape)
    shown = overlay(image, SemanticMap(labels, BINARY if exclusive else LAYERS))
    assert shown.shape == (height, width, 3)
    assert shown.dtype == np.uint8
    assert np.array_equal(image, before), "the user's image is not painted on"


def test_sixteen_bit_is_stretched_by_percentiles():
    image = np.linspace(1000, 5000, 10000).astype(np.uint16).reshape(100, 100, 1)
    shown = display_image(image)
    low, high = np.percentile(image, (1, 99))
    twin = np.clip((image.astype(float) - low) / (high - low) * 255, 0, 255)
    assert np.abs(shown - twin).max() <= 1


def test_display_survives_odd_floats_and_flat_channels():
    image = np.zeros((8, 8, 2), np.float32)
    image[0, 0] = (np.nan, np.inf)
    image[1:4, :, 0] = 7
    shown = display_image(image)
    assert shown.shape == (8, 8, 3)
    assert (shown[0, 0] == 0).all()
    assert shown[2, 2, 0] == 255
    assert (shown[..., 2] == 0).all()
    assert not np.isnan(display_image(np.full((4, 4, 1), np.nan, np.float32))).any()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        overlay(grey(5, 4), SemanticMap(np.zeros((4, 5), np.uint8), BINARY))


def test_entries_name_what_is_there_but_not_the_background():
    labels = np.array([[0, 1, 1, IGNORE]], np.uint8)
    entries = class_entries(SemanticMap(labels, BINARY))
    assert [(entry.name, entry.weight) for entry in entries] == [("核", 2), ("ignore", 1)]
    layers = np.array([[[1, 0], [1, IGNORE]]], np.uint8)
    assert [(e.name, e.weight) for e in class_entries(SemanticMap(layers, LAYERS))] == [("a", 2), ("ignore", 1)]


def test_legend_keeps_the_largest_and_counts_the_rest(monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr("nuriwake.viz.legend.draw_text", lambda canvas, text, **_: drawn.append(text))
    entries = [Entry(f"c{index}", (index, 0, 0), weight) for index, weight in enumerate([5, 90, 1, 70, 2, 60])]
    draw_legend(np.zeros((100, 200, 3), np.uint8), entries)
    assert drawn == ["c1", "c3", "+4"]


def test_no_legend_where_nothing_can_be_read():
    canvas = np.full((20, 20, 3), 9, np.uint8)
    draw_legend(canvas, [Entry("class", (1, 2, 3), 1)])
    assert (canvas == 9).all()


def test_legend_strip_wraps_and_shows_each_colour():
    entries = [Entry(f"class {index}", (index + 1, 200, 7), 1) for index in range(20)]
    strip = legend_strip(entries, 300)
    assert strip.shape[1] == 300
    found = {tuple(colour) for colour in strip.reshape(-1, 3)}
    assert all(entry.colour in found for entry in entries)
    assert legend_strip([], 300).shape == (0, 300, 3)


def test_label_pixels_is_a_histogram():
    labels = np.random.default_rng(1).integers(0, 256, (300, 70)).astype(np.uint8)
    assert np.array_equal(label_pixels(labels), [(labels == value).sum() for value in range(256)])


def test_hatching_continues_across_bands():
    whole = hatching((20, 9), period=6)
    assert np.array_equal(np.concatenate([hatching((7, 9), period=6), hatching((13, 9), top=7, period=6)]), whole)


def test_a_real_photograph(shared):
    image = cv2.imread(str(sorted((shared / "data/camvid/images/val").iterdir())[0]))[..., ::-1]
    mask = cv2.imread(str(sorted((shared / "data/camvid/masks/val").iterdir())[0]), cv2.IMREAD_UNCHANGED)
    shown = overlay(image, SemanticMap(mask, LabelSpace(tuple(f"クラス{index}" for index in range(11)))))
    assert shown.shape == image.shape
    assert not np.array_equal(shown, image)
