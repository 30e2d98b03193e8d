"""HRNet's published files: names for the whole family. The outputs of the published weights: test_checkpoint.py."""

import pytest
import torch

from nuriwake.models import build_model
from nuriwake.models.backbones.hrnet import HRNetLayout
from nuriwake.models.hrnet import HRNet
from nuriwake.models.ocr import HRNetOCR
from nuriwake.weights.published.hrnet import SOURCES, layout_from

ODD = HRNetLayout(5, (2, 1, 3), blocks=2, first_width=8, first_blocks=3)
BY_NAME = {(item.source, item.architecture): item for item in SOURCES}


def only(shapes):
    found = [item for item in SOURCES if item.recognise(shapes)]
    assert len(found) == 1
    return found[0]


def published_hrnet(model):
    """{the authors' key: shape} for a model of ours."""
    names = (("encoder.", ""), ("head.", "last_layer."))
    return {_swapped(key, names): tuple(item.shape) for key, item in model.state_dict().items()}


def _swapped(key, names):
    ours, theirs = next(pair for pair in names if key.startswith(pair[0]))
    return theirs + key.removeprefix(ours)


def mmseg_ocr(model):
    """{mmsegmentation's key: shape}; its ConvModules are `conv` and `bn`, its cascade `decode_head.0` and `.1`."""
    block, names = "decode_head.1.object_context_block.", {"0": "conv", "1": "bn"}
    projects = {"pixel_query": "query_project", "region_key": "key_project"}
    single = {"region_value": "value_project", "context": "out_project", "merge": "bottleneck"}
    found = {}
    for key, item in model.state_dict().items():
        part, *rest = key.split(".")
        if part == "encoder":
            theirs = "backbone." + ".".join(rest)
        elif part == "auxiliary_head":
            layer = {"0": "convs.0.conv", "1": "convs.0.bn", "3": "conv_seg"}[rest[0]]
            theirs = f"decode_head.0.{layer}.{rest[1]}"
        elif part == "representation":
            theirs = f"decode_head.1.bottleneck.{names[rest[0]]}.{rest[1]}"
        elif part == "head":
            theirs = f"decode_head.1.conv_seg.{rest[0]}"
        elif rest[0] in projects:
            theirs = f"{block}{projects[rest[0]]}.{rest[1]}.{names[rest[2]]}.{rest[3]}"
        else:
            theirs = f"{block}{single[rest[0]]}.{names[rest[1]]}.{rest[2]}"
        found[theirs] = tuple(item.shape)
    return found


def rebuilt(source, shapes):
    """Our model as the source's `spec` says, checked to have exactly the renamed arrays."""
    assert only(shapes) is source
    spec = source.spec(shapes, {})
    with torch.device("meta"):
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    own = {key: tuple(item.shape) for key, item in model.state_dict().items()}
    assert {source.rename(key): shape for key, shape in shapes.items()} == own
    return spec, model


def test_other_widths_and_depths_are_read_from_the_shapes():
    with torch.device("meta"):
        shapes = published_hrnet(HRNet(4, 6, layout=ODD))
    assert layout_from(shapes) == ODD
    spec, model = rebuilt(BY_NAME["hrnet", "hrnet"], shapes)
    assert (spec.in_channels, spec.classes, model.encoder.channels) == (4, 6, (5, 10, 20, 40))


def test_named_widths_need_no_option():
    with torch.device("meta"):
        shapes = published_hrnet(HRNet(3, 19, backbone="hrnetv2_w18_small_v2"))
    spec, _ = rebuilt(BY_NAME["hrnet", "hrnet"], shapes)
    assert (spec.name, dict(spec.options)) == ("hrnet_w18_small_v2", {})


def test_mmsegmentations_ocr_has_names_of_its_own():
    with torch.device("meta"):
        model = HRNetOCR(3, 150, layout=ODD, align_corners=False, head_bias=False, channels=24)
    spec, model = rebuilt(BY_NAME["mmseg", "hrnet_ocr"], mmseg_ocr(model))
    assert spec.options["channels"] == 24
    assert not model.align_corners


def test_the_authors_training_files_wrap_the_network_beside_its_loss():
    with torch.device("meta"):
        shapes = {f"model.{key}": shape for key, shape in published_hrnet(HRNet(3, 19, layout=ODD)).items()}
    shapes["loss.criterion.weight"] = (19,)
    source = only(shapes)
    left_out = [key for key in shapes if source.rename(key) is None]
    assert left_out == ["loss.criterion.weight"]
    assert all("loss" in source.why_left_out(key) for key in left_out)
    assert source.rename("model.conv1.weight") == "encoder.conv1.weight"


def test_mmsegmentations_auxiliary_head_is_left_out_with_a_reason():
    source = BY_NAME["mmseg", "hrnet"]
    assert source.rename("auxiliary_head.conv_seg.weight") is None
    assert "auxiliary" in source.why_left_out("auxiliary_head.conv_seg.weight")


@pytest.mark.parametrize("source", SOURCES, ids=lambda item: f"{item.source}-{item.architecture}")
def test_a_foreign_key_gets_a_name_that_no_model_of_ours_has(source):
    with torch.device("meta"):
        own = {*HRNet(3, 2, layout=ODD).state_dict(), *HRNetOCR(3, 2, layout=ODD).state_dict()}
    for key in ("head.0.weight", "encoder.conv1.weight", "decode_head.convs.1.conv.weight", "representation.0.weight"):
        assert source.rename(key) not in own
