"""LabelSpace, SemanticMap and Sample refuse what is wrong when they are built."""

import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace, palette
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap

ROADS = LabelSpace(("background", "road", "車"))


def test_palette_is_the_one_of_pascal_voc():
    assert palette(6) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert len(set(palette(255))) == 255


def test_background_is_black_and_without_background_no_class_is():
    assert ROADS.colours[0] == (0, 0, 0)
    assert (0, 0, 0) not in LabelSpace(("sky", "road")).colours


def test_channels_of_binary_exclusive_and_multi_label_spaces():
    assert LabelSpace(("background", "cell")).channels == 1
    assert ROADS.channels == 3
    assert LabelSpace(("wet", "dry"), exclusive=False).channels == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "at least one"),
        (("a", "b", "a"), "'a' stands more than once"),
        (tuple(map(str, range(256))), "at most 255"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(UserError, match=message):
        LabelSpace(names)


def test_fields_of_different_lengths():
    with pytest.raises(UserError, match="needs as many colours, found 1"):
        LabelSpace(("a", "b"), colours=((1, 2, 3),))


def test_a_misspelt_class_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'road'"):
        ROADS.index("rode")


def test_a_map_accepts_its_classes_and_ignore():
    labels = np.array([[0, 1], [2, IGNORE]], np.uint8)
    assert SemanticMap(labels, ROADS).size == (2, 2)
    layers = np.zeros((2, 3, 2), np.uint8)
    assert SemanticMap(layers, LabelSpace(("wet", "dry"), exclusive=False)).size == (2, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((2, 2), 3, np.uint8), "from 0 to 2 .* found 3"),
        (np.zeros((2, 2), np.int64), "uint8, found int64"),
        (np.zeros((2, 2, 3), np.uint8), r"\(H, W\), found \(2, 2, 3\)"),
    ],
)
def test_a_map_refuses(labels, message):
    with pytest.raises(UserError, match=message):
        SemanticMap(labels, ROADS)


def test_scores_have_the_shape_of_the_labels():
    with pytest.raises(UserError, match="float32 of the labels' shape"):
        SemanticMap(np.zeros((2, 2), np.uint8), ROADS, scores=np.zeros((2, 3), np.float32))


def test_a_mask_of_another_size_than_its_image_names_both():
    target = SemanticMap(np.zeros((4, 6), np.uint8), ROADS)
    with pytest.raises(UserError, match=r"street: the mask is 4x6 .* image is 6x4"):
        Sample(np.zeros((6, 4, 3), np.uint8), target, name="street")


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 0, 3), np.uint8), np.zeros((4, 4, 3), np.int64)]
)
def test_a_sample_refuses_what_is_no_image(image):
    with pytest.raises(UserError, match="an image"):
        Sample(image)


def test_saved_labels_are_the_pixel_values_and_the_palette_their_colours(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, IGNORE], np.uint8), (10, 12))
    (path,) = SemanticMap(labels, ROADS).save(tmp_path / "deep" / "a.png")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)
        assert tuple(np.asarray(picture.convert("RGB"))[labels == 1][0]) == ROADS.colours[1]
    with pytest.raises(UserError, match=r"ends with \.png"):
        SemanticMap(labels, ROADS).save(tmp_path / "a.jpg")


def test_layers_are_saved_by_class_and_never_outside_the_folder(tmp_path):
    layers = np.random.default_rng(0).choice(np.array([0, 1, IGNORE], np.uint8), (10, 12, 2))
    paths = SemanticMap(layers, LabelSpace(("wet", "../../x"), exclusive=False)).save(tmp_path / "a.png")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["wet/a.png", "_.._x/a.png"]
    for index, path in enumerate(paths):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), layers[..., index])


def test_overlay_paints_what_is_not_background():
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    picture = SemanticMap(labels, ROADS).overlay(np.full((40, 60, 3), 100, np.uint8), legend=False)
    assert (picture[:, :25] == 100).all()
    assert (picture[5, 50] != 100).any()
