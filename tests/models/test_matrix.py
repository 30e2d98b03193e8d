"""The matrix: every registered model, and every family over each kind of backbone, for all channels and classes.

It runs on the device "meta", which knows shapes and no values, with one block where a published size has many: what a number of
channels or classes can break is at the two ends of a network. What needs values (export, bf16) runs on the smallest of a kind.
`make test-slow` gives every registered model all nine pairs.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.models import FAMILIES, MODELS, Model, build_model, segformer
from nuriwake.models.backbones import hrnet, resnet, swin, vit
from nuriwake.models.outputs import PixelLogits, QueryOutput, RegionPixelOutput

PAIRS = tuple(itertools.product((1, 4, 12), (1, 2, 150)))
"""Channels of the image and classes."""

# One of every architecture: these have all nine pairs here, the others one each, in turn.
KINDS = (
    "deeplabv3_resnet50", "deeplabv3plus_resnet50", "hrnet_w18_small_v1", "hrnet_ocr_w18", "pspnet_resnet50", "segformer_b0",
    "semantic_fpn_resnet50", "unet", "unet_valid", "unet_resnet34", "yolact_resnet50", "solov2_light_r50_fpn",
)  # fmt: skip
# What these find and where their queries look is decided by values, so they run small on the processor.
_REGIONS = {
    "candidates": 20,
    "proposals": 10,
    "detections": 5,
    "box_width": 16,
    "mask_channels": 16,
    "score_threshold": 0.0,
}
NEEDING_VALUES = {
    ":MaskRCNN": {"pyramid_channels": 16, "regions": _REGIONS},
    ":PanopticFPN": {"pyramid_channels": 16, "regions": _REGIONS},
    ":Mask2Former": {"channels": 32, "queries": 10, "pixel_layers": 1, "decoder_layers": 2},
    ":EoMT": {},
}
FINDING = sorted(name for name, entry in MODELS.items() if entry.build.endswith(tuple(NEEDING_VALUES)))


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block where a published size has many, and narrow transformers."""
    for depth in resnet.DEPTHS:
        monkeypatch.setitem(resnet.DEPTHS, depth, (1, 1, 1, 1))
    for name, (widths, _) in segformer.SIZES.items():
        monkeypatch.setitem(segformer.SIZES, name, (widths, (1, 1, 1, 1)))
    for name, (channels, _, _, window) in swin.SIZES.items():
        monkeypatch.setitem(swin.SIZES, name, (channels // 4, (2, 1, 1, 1), (1, 2, 4, 8), window))
    for name, size in vit.SIZES.items():
        monkeypatch.setitem(vit.SIZES, name, size._replace(width=size.width // 8, depth=6))
    for name, layout in hrnet.LAYOUTS.items():
        monkeypatch.setitem(hrnet.LAYOUTS, name, replace(layout, modules=(1, 1, 1), blocks=1, first_blocks=1))


def image(model: Model, channels: int, *, batch: int = 2, size: tuple[int, int] = (37, 71)) -> Tensor:
    """Of an odd size, as far as the model takes one."""
    margin = 2 * model.margin
    return torch.randn(batch, channels, *model.fit_size(size[0] + margin, size[1] + margin))


def leaves(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [leaf for item in output for leaf in leaves(item)] if isinstance(output, tuple) else []


def assert_answers(model: Model, output: object, images: Tensor, classes: int) -> None:
    if isinstance(output, PixelLogits):
        maps = (output.logits, *output.auxiliary)
        assert all(logits.shape[:2] == (len(images), classes) for logits in maps)
        scales = [(images.shape[i] - 2 * model.margin) / output.logits.shape[i] for i in (2, 3)]
        assert scales[0] == scales[1] >= 1
        assert model.training or output.auxiliary == ()
        return
    found = leaves(output)
    assert len(found) >= 2
    # Query models and YOLACT have a class more: none of them.
    assert any(leaf.shape[0] == len(images) and {classes, classes + 1} & {*leaf.shape[1:]} for leaf in found)


def assert_both_modes(name: str, pair: tuple[int, int], options: dict | None = None) -> None:
    in_channels, classes = pair
    with torch.device("meta"):
        model = build_model(name, in_channels=in_channels, classes=classes, options=options)
        images = image(model, in_channels)
        for training in (True, False):
            assert_answers(model, model.train(training)(images), images, classes)


def test_the_kinds_are_all():
    assert {MODELS[name].build for name in (*KINDS, *FINDING)} == {entry.build for entry in MODELS.values()}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", KINDS)
def test_every_architecture_takes_all_channels_and_classes(name, pair):
    assert_both_modes(name, pair)


OTHERS = sorted({*MODELS} - {*KINDS, *FINDING})


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        pytest.param(name, pair, marks=() if index % 9 == turn % 9 else pytest.mark.slow)
        for turn, name in enumerate(OTHERS)
        for index, pair in enumerate(PAIRS)
    ],
)
def test_every_registered_model_answers(name, pair):
    assert_both_modes(name, pair)


SMALLEST = ("mask_rcnn_mobilenet_v2_fpn", "panoptic_fpn_mobilenet_v2", "mask2former_r50", "eomt_small")


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        *itertools.product(SMALLEST, PAIRS),
        *((name, PAIRS[4 * turn % 9]) for turn, name in enumerate(FINDING) if name not in SMALLEST),
    ],
)
def test_models_that_need_values_answer(name, pair):
    in_channels, classes = pair
    (options,) = (options for end, options in NEEDING_VALUES.items() if MODELS[name].build.endswith(end))
    model = build_model(name, in_channels=in_channels, classes=classes, options=options)
    images = image(model, in_channels)
    for training in (True, False):
        with torch.no_grad():
            output = model.train(training)(images)
        assert all(leaf.isfinite().all() for leaf in leaves(output))
        if isinstance(output, QueryOutput):
            assert_answers(model, output, images, classes)
            continue
        regions = output.regions if isinstance(output, RegionPixelOutput) else output
        assert len({len(leaf) for leaf in leaves(regions)}) == 1
        assert regions.boxes.shape[1:] == (4,)
        assert ((regions.labels >= 0) & (regions.labels < classes)).all()
        assert ((regions.image >= 0) & (regions.image < 2)).all()


BACKBONES_TRIED = (
    "mobilenet_v2", "resnet18", "resnext50_32x4d", "mobilenet_v3_large", "mit_b0", "swin_tiny", "hrnetv2_w18_small_v1",
    "convnext_atto",
)  # fmt: skip
UNDILATED = ("mit_b0", "swin_tiny", "hrnetv2_w18_small_v1")
DILATING = ("deeplabv3", "deeplabv3plus", "pspnet")
FEW_TRIED = ("mobilenet_v2", "resnet18", "swin_tiny", "convnext_atto")
CROSSED = [
    *itertools.product(("unet", *DILATING, "semantic_fpn"), BACKBONES_TRIED),
    *itertools.product(("yolact", "solov2"), FEW_TRIED),
]


@pytest.mark.parametrize(("family", "backbone", "pair"), [(*row, PAIRS[turn % 9]) for turn, row in enumerate(CROSSED)])
def test_families_over_backbones_answer_or_refuse_with_a_sentence(family, backbone, pair):
    assert family in FAMILIES
    name = f"{family}_{backbone}"
    if family in DILATING and backbone in UNDILATED:
        with pytest.raises(
            UserError, match=f"The output stride of '{backbone}' is 32, found|'{backbone}' keeps stride 4 beside 32"
        ):
            assert_both_modes(name, pair)
    else:
        assert_both_modes(name, pair)


# The smallest of each kind of backbone under the families that take it; those of one's own architecture: test_catalogue.py.
REAL = {
    "unet_convnext_atto": {"decoder_channels": (8, 8, 8)},
    "unet_swin_tiny": {"decoder_channels": (8, 8, 8)},
    "semantic_fpn_mit_b0": {"pyramid_channels": 32, "channels": 32},
    "deeplabv3plus_resnext50_32x4d": {"channels": 8},
}


@pytest.mark.parametrize("name", REAL)
def test_every_kind_of_backbone_exports_and_runs_in_half_precision(name):
    torch.manual_seed(0)
    model = build_model(name, in_channels=4, classes=3, options=REAL[name]).eval()
    images = image(model, 4, batch=1, size=(33, 71))
    with torch.no_grad():
        plain = model(images).logits
        exported = torch.export.export(model, (images,), strict=False).module()(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images).logits.float()
    assert torch.allclose(exported, plain, atol=1e-5)
    assert half.isfinite().all()
    assert (half - plain).abs().mean() < 0.1 * plain.abs().max()
