"""An image reaches an imported model as its publisher's own programs resize it: with a filter that widens, or without."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from nuriwake.core.serial import from_plain, to_plain
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.weights.processor import read_processor
from nuriwake.weights.published import deeplabv3, detectron2, mask_rcnn, pspnet, segformer, yolact
from nuriwake.weights.published.base import mmseg_size

SIZES = ((1200, 1900), (730, 610), (200, 260))
"""Shrunk much, shrunk little, enlarged."""


def photograph(size):
    """uint8 (H, W, 3): smooth colours, sharp edges and grain, the last of which aliases when it is shrunk."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.uniform(0, 255, (6, 8, 3)), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    y, x = np.ogrid[: size[0], : size[1]]
    edges = 60.0 * ((x // 7 + y // 5) % 2)[..., None]
    return (smooth + edges + rng.normal(0, 20, (*size, 3))).clip(0, 255).astype(np.uint8)


def seen(preprocessing, image):
    """float32 (3, H, W), what the model is given."""
    geometry = preprocessing.geometry(image.shape[:2])
    return preprocessing.tensor(geometry.apply(image, interpolation=preprocessing.interpolation))


def levels_apart(preprocessing, found, expected):
    """The greatest difference of two inputs of a model, in grey levels of 255."""
    deviation = np.array(preprocessing.deviation)[:, None, None] * 255
    return np.abs((found - np.asarray(expected)) * deviation).max()


def linear(image, size):
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("size", SIZES)
def test_torchvisions_segmentation_is_resized_as_its_preset_does(size):
    from torchvision.transforms._presets import SemanticSegmentation

    image, ours = photograph(size), deeplabv3.SOURCES[0].preprocessing
    preset = SemanticSegmentation(resize_size=520)
    assert levels_apart(ours, seen(ours, image), preset(Image.fromarray(image))) < 1e-3
    assert levels_apart(ours, seen(ours, image), preset(torch.from_numpy(image).permute(2, 0, 1))) < 1.01


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["SegformerImageProcessor", "Mask2FormerImageProcessor", "EomtImageProcessor"])
def test_transformers_models_are_resized_as_their_processors_do(size, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name)()
    ours, notes = read_processor(Preprocessing(), processor.to_dict(), tmp_path / "preprocessor_config.json")
    assert not notes
    image = photograph(size)
    found = seen(ours, image)
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0].numpy()
    if name == "SegformerImageProcessor":
        assert levels_apart(ours, found, seen(segformer.SOURCES[0].preprocessing_of(ADE20K, {}), image)) < 1e-3
    height, width = (min(pair) for pair in zip(found.shape[1:], expected.shape[1:], strict=True))
    assert levels_apart(ours, found[:, :height, :width], expected[:, :height, :width]) < 1.01


ADE20K = {"decode_head.classifier.weight": (150, 256, 1, 1), "decode_head.linear_pred.weight": (150, 256, 1, 1)}


@pytest.mark.parametrize("size", SIZES)
def test_detectron2s_images_are_resized_by_pil_and_openmmlabs_by_opencv(size):
    image = photograph(size)
    theirs = detectron2.preprocessing({}, {})
    height, width = theirs.resize.size(size)
    expected = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    assert levels_apart(theirs, seen(theirs, image), theirs.tensor(expected)) == 0
    mmseg = Preprocessing(resize=mmseg_size(150))
    expected = linear(image, mmseg.resize.size(size))
    assert levels_apart(mmseg, seen(mmseg, image), mmseg.tensor(expected)) == 0


def test_who_looks_at_four_pixels_only_does_so_here_too():
    """torchvision's Mask R-CNN interpolates its tensors without antialiasing."""
    image, ours = photograph((1200, 1900)), mask_rcnn.SOURCES[0].preprocessing
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    size = ours.resize.size((1200, 1900))
    expected = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)[0].numpy() / 255
    mean, deviation = (np.array(item)[:, None, None] for item in (ours.mean, ours.deviation))
    assert levels_apart(ours, seen(ours, image), (expected - mean) / deviation) < 1.01
    rules = (ours.resize, yolact.PREPROCESSING.resize, pspnet._semseg_preprocessing({"cls.4.weight": (19,)}, {}).resize)
    assert {rule.interpolation for rule in rules} == {"linear"}


def test_a_rule_written_before_there_was_a_choice_is_opencvs():
    stored = to_plain(ResizeRule(shortest=520, interpolation="antialiased"))
    assert from_plain(ResizeRule, stored).interpolation == "antialiased"
    assert from_plain(ResizeRule, stored | {"interpolation": "linear"}).interpolation == "linear"
    assert from_plain(ResizeRule, {"shortest": 520}).interpolation == "linear"
