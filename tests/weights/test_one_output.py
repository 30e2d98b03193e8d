"""Models of one output: the name of their class, the threshold of mmsegmentation, and the one region of OCR."""

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.models import build_model
from nuriwake.weights.checkpoint import predictor_of, read_checkpoint
from nuriwake.weights.mmseg_config import read_mmseg_config
from nuriwake.weights.published import hrnet

TINY = {"width": 4, "modules": [1, 1, 1], "blocks": 1, "first_width": 4, "first_blocks": 1}
HEADS = {"fcn": hrnet._MMSEG_FCN_NAMES, "ocr": hrnet._MMSEG_OCR_NAMES, "authors": hrnet._OCR_NAMES}


def published(key, kind):
    """Our key -> that of the source's file."""
    for pattern, ours in HEADS[kind].items():
        for number in "01":
            own = ours.replace(r"\1", number)
            if key.startswith(own):
                return pattern.replace("([01])", number).replace("\\", "") + key.removeprefix(own)
    return key.replace("encoder.", "" if kind == "authors" else "backbone.")


def write(folder, kind="fcn", classes=1, probability=None, **meta):
    """A tiny file of mmsegmentation, or of OCR's authors; every pixel of an image has that `probability`."""
    torch.manual_seed(0)
    options = {"layout": TINY, "head_bias": kind == "authors"} | ({} if kind == "fcn" else {"channels": 8})
    name = "hrnet_w48" if kind == "fcn" else "hrnet_ocr_w48"
    state = build_model(name, in_channels=3, classes=classes, options=options).state_dict()
    if probability is not None:
        state["head.3.weight"].zero_()
        state["head.3.bias"].fill_(np.log(probability / (1 - probability)))
    saved = {"state_dict": {published(key, kind): item for key, item in state.items()}, "message_hub": {"a": 1}}
    torch.save(saved | ({"meta": meta} if meta else {}), folder / "file.pth")
    return folder / "file.pth"


def config(head="", backbone="type='HRNet'"):
    return f"model = dict(backbone=dict({backbone}), decode_head=dict(type='FCNHead', num_classes=2{head}))"


@pytest.mark.parametrize(
    ("text", "threshold", "said"),
    [
        (
            config(", out_channels=1, threshold=0.4"),
            0.4,
            "from a probability of 0.4 on, as the configuration in the file",
        ),
        (config(", out_channels=1"), 0.3, "from a probability of 0.3 on, as mmsegmentation does"),
        (None, 0.3, "from a probability of 0.3 on, as mmsegmentation does"),
        (
            config(", out_channels=1, threshold=1.5"),
            0.3,
            "threshold=1.5, expected is a number between 0 and 1; 0.3 is taken",
        ),
    ],
)
def test_mmsegmentations_threshold_is_kept(tmp_path, text, threshold, said):
    imported = read_checkpoint(write(tmp_path, probability=0.35, **({} if text is None else {"cfg": text})))
    assert imported.bundle.settings.thresholds == (threshold,)
    assert (
        sum(said in note for note in imported.report.notes) == sum(said in note for note in imported.bundle.notes) == 1
    )
    answer = predictor_of(imported)(np.zeros((32, 40, 3), np.uint8))
    assert (answer.labels == (threshold < 0.35)).all()


def test_the_threshold_is_that_of_the_last_head():
    text = "model = dict(decode_head=[dict(threshold=0.1), dict(threshold=0.2)])"
    assert read_mmseg_config(text).threshold == 0.2
    assert read_mmseg_config(text.replace("0.2", "'0.2'")).threshold is None


def test_several_outputs_and_other_sources_have_no_threshold(tmp_path):
    assert read_checkpoint(write(tmp_path, classes=2, cfg=config())).bundle.settings.thresholds == ()
    assert read_checkpoint(write(tmp_path, "authors")).bundle.settings.thresholds == ()


def test_what_was_read_of_meta_is_not_called_unused(tmp_path):
    def unused(**meta):
        return next(note for note in read_checkpoint(write(tmp_path, **meta)).report.notes if "Beside" in note)

    assert unused(cfg=config()) == unused(CLASSES=("crack",)) == "Beside the arrays the file has message_hub; not used."
    for other in ({"CLASSES": ("a", "b", "c")}, {"epoch": 3}):
        assert "meta" in unused(**other)


def test_one_name_is_that_of_the_output(tmp_path):
    path = write(tmp_path, CLASSES=("crack",))
    imported = read_checkpoint(path)
    assert imported.bundle.space.names == ("background", "crack")
    assert "Classes: 2, the second as the file says: background, crack." in imported.lines()
    given = read_checkpoint(path, classes=("scratch",))
    assert given.bundle.space.names == ("background", "scratch")
    assert given.report.classes == "the second as given"
    assert read_checkpoint(path, classes=("road", "crack")).bundle.space.names == ("road", "crack")
    with pytest.raises(UserError, match="tells 2 classes apart, but 3 names were given; give 2, or only the second"):
        read_checkpoint(path, classes=("a", "b", "c"))
    # The name of the background alone says nothing of the output.
    assert read_checkpoint(write(tmp_path, CLASSES=("background",))).bundle.space.names[1] == "foreground"
    names = read_checkpoint(write(tmp_path, dataset_meta={"classes": ("ground", "crack")})).bundle.space.names
    assert names == ("ground", "crack")
    with pytest.raises(UserError, match=r"tells 3 classes apart, but 1 names were given; give 3\."):
        read_checkpoint(write(tmp_path, classes=3), classes=("a",))


@pytest.mark.parametrize("kind", ["ocr", "authors"])
def test_ocr_of_one_output_has_one_region_as_in_its_sources(tmp_path, kind):
    imported = read_checkpoint(write(tmp_path, kind))
    assert imported.bundle.model.options["background_region"] is False
    model = imported.model
    features, logits = torch.randn(1, 8, 4, 6), torch.randn(1, 1, 4, 6)
    with torch.no_grad():
        context = model.object_context
        region = (features.flatten(2) * logits.flatten(2).softmax(2)).sum(2)[..., None, None]
        # Every pixel attends to the one region there is.
        value = context.context(context.region_value(region)).expand_as(features)
        expected = context.merge(torch.cat([value, features], dim=1))
        assert torch.allclose(context(features, logits), expected, atol=1e-5)
    assert "background_region" not in read_checkpoint(write(tmp_path, kind, classes=2)).bundle.model.options
