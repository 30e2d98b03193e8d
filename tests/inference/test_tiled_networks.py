"""Real networks of every family take a large image in tiles: each is seen like an image of its own, and the answers are joined."""

from typing import Any

import numpy as np
import pytest
import torch

from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.inference.decoding import find_decoder, output_type, split_for_tiles
from nuriwake.inference.joining.joining import join_tiles
from nuriwake.inference.joining.layout import lay_out
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import plan_tiles
from nuriwake.models.backbones import vit
from nuriwake.models.eomt import EoMT
from nuriwake.models.mask2former import Mask2Former
from nuriwake.models.panoptic_fpn import PanopticFPN
from nuriwake.models.region_settings import RegionSettings
from nuriwake.models.solov2 import SOLOv2
from nuriwake.models.yolact import Yolact

THINGS = LabelSpace(("cat", "dog"), (True, True))
MIXED = LabelSpace(("cat", "sky"), (True, False))
TILE, SIZE = 64, (96, 150)
SOLO = {"channels": 32, "pyramid_channels": 32, "mask_channels": 32, "kernel_channels": 32, "convolutions": 1}
REGIONS = RegionSettings(
    (8.0, 16.0, 32.0, 64.0, 128.0), score_threshold=0.0, detections=6, box_width=32, mask_channels=8
)
LIGHT: dict[str, Any] = {"backbone": "mobilenet_v2"}
ALL = {"score_threshold": 0.0}

FAMILIES = {
    "yolact": (
        "instance",
        lambda: Yolact(3, 2, **LIGHT, prior_pixels=True, prior_sizes=(8, 16, 32, 64, 128)),
        {**ALL, "detections": 5},
    ),
    "solov2": (
        "instance",
        lambda: SOLOv2(3, 2, **LIGHT, **SOLO, grids=(6, 5, 4, 3, 2)),
        {**ALL, "candidate_threshold": 0.0, "mask_threshold": 0.4, "detections": 5},
    ),
    "mask2former": (
        "panoptic",
        lambda: Mask2Former(3, 2, **LIGHT, channels=32, queries=6, pixel_layers=1, decoder_layers=1),
        {**ALL, "overlap_threshold": 0.0},
    ),
    "eomt": (
        "instance",
        lambda: EoMT(3, 2, image_size=64, queries=5, query_blocks=1),
        {**ALL, "detections": 5},
    ),
    "panoptic_fpn": (
        "panoptic",
        lambda: PanopticFPN(3, 2, **LIGHT, things=(0,), regions=REGIONS),
        {**ALL, "overlap_threshold": 0.9, "stuff_area": 40},
    ),
}


@pytest.mark.filterwarnings("ignore:There are more", "ignore:All")
@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_are_images_of_their_own_whose_answers_are_joined(family, monkeypatch):
    monkeypatch.setitem(vit.SIZES, "dinov2_small", vit.VisionTransformerSize(64, 2, 2))
    torch.manual_seed(0)
    task, build, options = FAMILIES[family]
    model = build().eval()
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    # One tile at a time, so that the arithmetic is that of the tile alone to the bit.
    settings = PredictSettings(tile=TILE, batch_size=1, decoding=options)
    space = THINGS if task == "instance" else MIXED
    tiled = Predictor(model, space=space, preprocessing=Preprocessing(), task=task, settings=settings)
    found = tiled(image)
    assert found.size == SIZE

    _, finish = split_for_tiles(find_decoder(task, output_type(model), options))
    alone = {**options, "stuff_area": 0} if "stuff_area" in options else options
    whole = tiled.with_settings(PredictSettings(tile=None, decoding=alone))
    layout = lay_out(plan_tiles(SIZE, tile=TILE, overlap=0.25, fit=model.fit_size, align=model.input_multiple))
    assert len(layout) >= 6
    answers = [whole(image[top:bottom, left:right]) for left, top, right, bottom in layout.windows.tolist()]
    expected = finish(join_tiles(iter(answers), layout))
    assert len(found) == len(expected) > 0
    assert max(map(len, answers)) > 0
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    if isinstance(found, Panoptic):
        assert np.array_equal(found.ids, expected.ids)
    else:
        assert np.array_equal(found.masks.dense(), expected.masks.dense())
