"""Published models that take images of any size see them whole and unpadded here too."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.models import build_model
from nuriwake.weights.checkpoint import predictor_of, read_checkpoint
from nuriwake.weights.sources import all_sources

SIZE = (75, 101)


@pytest.fixture
def segformer(tmp_path):
    """A folder of transformers' SegFormer, and its model with weights that let every pixel matter."""

    def made(labels, names=None, **processor):
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = transformers.SegformerConfig(
            hidden_sizes=[8, 16, 20, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=labels
        )
        if names is not None:
            config.id2label = names
        model = transformers.SegformerForSemanticSegmentation(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        model.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_resize": False, **processor})
        )
        return tmp_path, model

    return made


def test_transformers_segformer_answers_images_of_any_size_as_published(segformer):
    folder, theirs = segformer(3)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    image[20:60, 10:80] //= 3
    images = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.no_grad():
        logits = theirs(images).logits
        expected = functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False).softmax(1)[0]
        padded = theirs(functional.pad(images, (0, 27, 0, 21))).logits
        cut = functional.interpolate(padded, (96, 128), mode="bilinear", align_corners=False).softmax(1)[0]
    imported = read_checkpoint(folder)
    found = torch.from_numpy(predictor_of(imported).probabilities(image))
    assert torch.allclose(found, expected, atol=1e-4)
    assert (cut[:, :75, :101] - expected).abs().max() > 0.01  # so that padding would show
    assert not any("padded" in note for note in imported.report.notes)


def test_the_one_label_of_transformers_is_kept(segformer):
    folder, _ = segformer(1, {0: "crack"})
    assert read_checkpoint(folder).bundle.space.names == ("background", "crack")


def test_models_of_mmsegmentation_that_are_padded_here_say_so():
    def note(architecture, name, **options):
        source = next(item for item in all_sources() if item.source == "mmseg" and item.architecture == architecture)
        with torch.device("meta"):
            return source.padding_of(build_model(name, in_channels=3, classes=2, options=options))

    (text,) = note("pspnet", "pspnet_resnet50")
    assert "images of any size; here their sides are padded to multiples of 8" in text
    (text,) = note("semantic_fpn", "semantic_fpn_resnet50")
    assert "multiples of 32" in text
    assert note("segformer", "segformer_b0") == note("hrnet", "hrnet_w18") == note("hrnet_ocr", "hrnet_ocr_w18") == ()
    assert note("unet", "unet") == ()
