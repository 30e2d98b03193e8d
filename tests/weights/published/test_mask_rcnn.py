"""Published Mask R-CNNs and Panoptic FPNs: read from their own files, with the published outputs, masks and segments."""

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torchvision.models._meta import _COCO_CATEGORIES

from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import ResizeRule
from nuriwake.models import build_model
from nuriwake.models.outputs import RegionPixelOutput, fit_logits
from nuriwake.weights.checkpoint import predictor_of, read_checkpoint
from nuriwake.weights.class_lists import CLASS_LISTS
from nuriwake.weights.contents import read_contents
from nuriwake.weights.detectron2_config import read_detectron2_config
from nuriwake.weights.published import mask_rcnn, panoptic_fpn, semantic_fpn
from nuriwake.weights.published.mask_rcnn import torchvision_rows

SOURCES = (*mask_rcnn.SOURCES, *panoptic_fpn.SOURCES, *semantic_fpn.SOURCES)
REFERENCES = {
    "torchvision__maskrcnn_resnet50_fpn": ("torchvision", "mask_rcnn_resnet50", 80, "instance"),
    "torchvision__maskrcnn_resnet50_fpn_v2": ("torchvision", "mask_rcnn_resnet50", 80, "instance"),
    "detectron2__mask_rcnn_R_50_FPN_3x": ("detectron2", "mask_rcnn_resnet50_caffe", 80, "instance"),
    "detectron2__panoptic_fpn_R_50_3x": ("detectron2", "panoptic_fpn_resnet50_caffe", 133, "panoptic"),
}
EVERY = pytest.mark.parametrize("name", REFERENCES)


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def write(folder, name, arrays):
    if name.startswith("torchvision"):
        torch.save({key: torch.from_numpy(item) for key, item in arrays.items()}, folder / "model.pth")
        return folder / "model.pth"
    saved = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (folder / "model_final.pkl").write_bytes(pickle.dumps(saved, 2))
    return folder / "model_final.pkl"


def off(found, expected):
    """The largest difference in units of the largest value."""
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())


def prepared(parity, formula, tmp_path, name):
    """The checkpoint as read, set as the reference was run, its image and the reference."""
    description = json.loads((parity / f"{name}.json").read_text())
    imported = read_checkpoint(write(tmp_path, name, formula.state_dict(parity / f"{name}.json")))
    regions = imported.model.regions
    regions.settings = replace(regions.settings, score_threshold=0.0, detections=20)
    rule = ResizeRule(shortest=160, longest=320, rounding="down") if name.startswith("torchvision") else None
    bundle = replace(imported.bundle, preprocessing=replace(imported.bundle.preprocessing, resize=rule))
    given = description["input"]
    image = formula.image(given["image"], given["height"], given["width"])
    return replace(imported, bundle=bundle), image, dict(np.load(parity / f"{name}.npz"))


@EVERY
def test_a_published_file_answers_as_published(name, parity, formula, tmp_path):
    imported, image, expected = prepared(parity, formula, tmp_path, name)
    bundle, model, ours = imported.bundle, imported.model, name.startswith("torchvision")
    source, model_name, classes, task = REFERENCES[name]
    assert (bundle.model.name, bundle.model.classes, bundle.task) == (model_name, classes, task)
    assert source in imported.report.recognised.lower()
    assert bundle.space.names == CLASS_LISTS["coco", classes]
    assert bundle.space.things == tuple(label < 80 for label in range(classes))
    assert bundle.settings.tile is None
    images = torch.from_numpy(bundle.preprocessing.tensor(image))[None]
    worst = {}
    with torch.no_grad():
        maps, padded = model.trunk(images)
        features = [key for key in expected if key.startswith("features")]
        worst["features"] = max(off(x, expected[key]) for x, key in zip(maps, features, strict=True))
        for kind, found in zip(("rpn_objectness", "rpn_deltas"), model.regions.proposal_head(maps), strict=True):
            worst[kind] = max(off(x, expected[f"{kind}.{level}"]) for level, x in enumerate(found))
        rois = torch.from_numpy(expected["rois"])
        rows = torch.zeros(len(rois), dtype=torch.int64)
        logits, offsets = model.regions.box_head(model.regions.box_pool(maps[:4], rois, rows))
        masks = model.regions.mask_head(model.regions.mask_pool(maps[:4], rois, rows))
        output = model(images)
    real, gaps = torchvision_rows(91) if ours else (list(range(80)), [])
    order = [*real, *gaps, 0] if ours else [*real, 80]
    worst["class_logits"] = off(logits, expected["roi_class_logits"][:, order])
    worst["box_deltas"] = off(offsets, expected["roi_box_deltas"].reshape(4, -1, 4)[:, real])
    first = expected["roi_mask_logits"][:, 1:] if ours else expected["roi_mask_logits"]
    worst["mask_logits"] = off(masks[:, : first.shape[1]], first)
    regions = output
    if task == "panoptic":
        assert isinstance(output, RegionPixelOutput)
        regions = output.regions
        semantic = fit_logits(output.logits, padded)[0, :, ::4, ::4]
        worst["semantic"] = off(semantic, expected["sem_seg_strided4"])
    kept = [index for index, label in enumerate(expected["detections.labels"]) if label in real]
    assert [real.index(label) for label in expected["detections.labels"][kept]] == regions.labels[: len(kept)].tolist()
    worst["boxes"] = off(regions.boxes[: len(kept)], expected["detections.boxes"][kept])
    worst["scores"] = off(regions.scores[: len(kept)], expected["detections.scores"][kept])
    print(name, {key: f"{value:.1e}" for key, value in worst.items()})
    assert max(worst.values()) <= 1e-4
    check_answers(imported, image, expected, kept, parity / f"{name}.segments.json")


def check_answers(imported, image, expected, kept, segments):
    """The masks, and what a panoptic model merges, through the predictor."""
    bundle = replace(imported.bundle, task="instance", settings=replace(imported.bundle.settings, decoding={}))
    decoding = {"paste": imported.bundle.settings.decoding.get("paste", "aligned")}
    found = predictor_of(
        replace(imported, bundle=replace(bundle, settings=replace(bundle.settings, decoding=decoding)))
    )(image)
    masks = expected["detections.masks"].reshape(20, *image.shape[:2])[kept]
    wrong = int((found.masks.dense()[: len(kept)] != masks).sum())
    print("pixels that differ:", wrong, "of", masks.size)
    assert wrong <= 20  # values on the threshold
    assert np.abs(found.boxes[: len(kept)] - expected["detections.boxes"][kept]).max() < 0.05
    if "panoptic_ids" not in expected:
        return
    found = predictor_of(imported)(image)
    theirs = json.loads(segments.read_text())
    labels = [item["category_id"] if item["isthing"] else 79 + item["category_id"] for item in theirs]
    assert found.segment_ids.tolist() == [item["id"] for item in theirs]
    assert found.labels.tolist() == labels
    wrong = int((found.ids != expected["panoptic_ids"]).sum())
    print("pixels of other segments:", wrong)
    assert wrong <= 20
    scores = [item["score"] for item in theirs if item["isthing"]]
    assert found.scores[: len(scores)] == pytest.approx(scores, rel=1e-4)
    areas = [item["area"] for item in theirs if not item["isthing"]]
    assert np.abs(found.areas()[len(scores) :] - areas).max() <= 20


def shapes_of(parity, name):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def renamed(source, shapes):
    """{our key: shape} as a reader makes them."""
    arrays = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    arrays = source.arrange(arrays) if source.arrange else arrays
    found = {}
    for key, item in arrays.items():
        own = source.rename(key)
        if own is None:
            assert source.why_left_out(key)
            continue
        found[own] = tuple((source.transform(own, item) if source.transform else item).shape)
    return found


def expected_shapes(spec):
    with torch.device("meta"):
        model = build_model(spec.name, in_channels=spec.in_channels, classes=spec.classes, options=spec.options)
    return {
        key: tuple(item.shape) for key, item in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }


@EVERY
def test_one_source_knows_the_file_and_every_array(name, parity):
    shapes = shapes_of(parity, name)
    (source,) = [item for item in SOURCES if item.recognise(shapes)]
    found = renamed(source, shapes)
    spec = source.spec(shapes, {})
    assert {key: shape for key, shape in found.items() if not key.endswith("num_batches_tracked")} == expected_shapes(
        spec
    )


def test_torchvisions_older_names_are_read(parity):
    """As in the files it published in 2019: bare convolutions, no counters."""
    shapes = shapes_of(parity, "torchvision__maskrcnn_resnet50_fpn")
    older = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for part in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                key = key.replace(f"{part}.{level}.0.", f"{part}.{level}.")
        for index in range(4):
            key = key.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.")
        older[key] = shape
    (source,) = [item for item in SOURCES if item.recognise(older)]
    spec = source.spec(older, {})
    assert (spec.options["epsilon"], spec.options["frozen_norm"]) == (0.0, True)
    assert renamed(source, older) == expected_shapes(spec)


def test_numbers_without_a_class_are_torchvisions():
    real, gaps = torchvision_rows(91)
    assert gaps == [index for index, label in enumerate(_COCO_CATEGORIES) if label == "N/A"]
    assert tuple(_COCO_CATEGORIES[index] for index in real) == CLASS_LISTS["coco", 80]
    assert torchvision_rows(4) == ([1, 2, 3], [])


def test_rows_move_with_their_classes(parity):
    source = mask_rcnn.SOURCES[0]
    item = torch.arange(4.0)[:, None]
    assert source.transform("regions.box_head.classify.weight", item)[:, 0].tolist() == [1, 2, 3, 0]
    assert source.transform("regions.mask_head.classify.bias", item[:, 0]).tolist() == [1, 2, 3]
    wide = torch.arange(16.0)
    assert source.transform("regions.box_head.offsets.bias", wide).tolist() == list(range(4, 16))
    assert source.transform("trunk.encoder.conv1.weight", item) is item


def configured(tmp_path, text, name="config.yaml"):
    (tmp_path / name).write_text(text)
    return read_detectron2_config(tmp_path / name)


def test_a_configuration_changes_what_it_says(tmp_path, parity):
    config = configured(
        tmp_path,
        """
_BASE_: "../Base-RCNN-FPN.yaml"
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 640, MAX_SIZE_TEST: 1000}
MODEL:
  PIXEL_STD: [57.375, 57.12, 58.395]
  MASK_ON: true
  RESNETS: {DEPTH: 50, STRIDE_IN_1X1: false}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]]}
TEST: {DETECTIONS_PER_IMAGE: 50}
""",
    )
    shapes, source = shapes_of(parity, "detectron2__mask_rcnn_R_50_FPN_3x"), mask_rcnn.SOURCES[1]
    spec = source.spec(shapes, config)
    assert spec.name == "mask_rcnn_resnet50"
    regions = spec.options["regions"]
    assert (regions["score_threshold"], regions["detections"], regions["candidates"]) == (0.3, 50, 1000)
    assert regions["anchor_sizes"] == [16.0, 32.0, 64.0, 128.0, 256.0]
    preprocessing = source.preprocessing_of(shapes, config)
    assert (preprocessing.order, preprocessing.padding) == ("rgb", "zero")
    assert preprocessing.deviation == pytest.approx((0.225, 0.224, 0.229))
    rule = ResizeRule(shortest=640, longest=1000, interpolation="antialiased", rounding="half_up")
    assert preprocessing.resize == rule


def test_the_zoos_bases_are_built_in_and_files_win(tmp_path, parity):
    panoptic = "_BASE_: Base-Panoptic-FPN.yaml\nMODEL: {PANOPTIC_FPN: {COMBINE: {STUFF_AREA_LIMIT: 64}}}\n"
    config = configured(tmp_path, panoptic)
    assert config["MODEL"]["META_ARCHITECTURE"] == "PanopticFPN"
    assert config["MODEL"]["RPN"]["PRE_NMS_TOPK_TEST"] == 1000
    shapes, source = shapes_of(parity, "detectron2__panoptic_fpn_R_50_3x"), panoptic_fpn.SOURCES[0]
    assert source.decoding_of(shapes, config) == {"score_threshold": 0.5, "overlap_threshold": 0.5, "stuff_area": 64}
    assert source.spec(shapes, config).options["regions"] == source.spec(shapes, {}).options["regions"]
    (tmp_path / "Base-Panoptic-FPN.yaml").write_text("MODEL: {META_ARCHITECTURE: Other}\n")
    assert configured(tmp_path, panoptic)["MODEL"]["META_ARCHITECTURE"] == "Other"
    semantic = configured(tmp_path, "_BASE_: ../Base-RCNN-FPN.yaml\nMODEL: {META_ARCHITECTURE: SemanticSegmentor}\n")
    shapes = shapes_of(parity, "detectron2__semantic_R_50_FPN_1x")
    assert semantic_fpn.SOURCES[0].spec(shapes, semantic) == semantic_fpn.SOURCES[0].spec(shapes, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_BASE_: other.yaml\n", "_BASE_ 'other.yaml' is not there, and it is none of"),
        ("_BASE_: config.yaml\n", "lead in a circle"),
        ("MODEL: [\n", "no readable YAML"),
        ("- 1\n", "expected a mapping, found list"),
        ("MODEL: !!python/object:os.system {}\n", "no readable YAML"),
    ],
)
def test_a_configuration_that_cannot_be_read_says_why(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        configured(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"MODEL": {"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIAlign"}}},
            "ROI_BOX_HEAD.POOLER_TYPE is 'ROIAlign'; only 'ROIAlignV2'",
        ),
        ({"MODEL": {"BACKBONE": {"NAME": "build_vit"}}}, "MODEL.BACKBONE.NAME is 'build_vit'"),
        ({"MODEL": {"ANCHOR_GENERATOR": {"SIZES": [[32, 64, 128, 256, 512]]}}}, "several sizes per level"),
        ({"INPUT": {"FORMAT": "YUV-BT.601"}}, "INPUT.FORMAT is YUV"),
    ],
)
def test_what_our_model_does_not_do_is_refused_by_name(tmp_path, parity, change, said):
    config = configured(tmp_path, yaml.safe_dump({"_BASE_": "Base-RCNN-FPN.yaml", **change}))
    shapes, source = shapes_of(parity, "detectron2__mask_rcnn_R_50_FPN_3x"), mask_rcnn.SOURCES[1]
    with pytest.raises(UserError, match=said):
        _ = source.spec(shapes, config), source.preprocessing_of(shapes, config)


def test_a_folder_with_a_configuration_and_one_file(tmp_path):
    saved = {"model": {"a.weight": np.zeros((2, 2), np.float32)}, "__author__": "someone"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(saved, 2))
    (tmp_path / "config.yaml").write_text("_BASE_: Base-RCNN-FPN.yaml\nMODEL: {MASK_ON: true}\n")
    for path in (tmp_path, tmp_path / "model_final.pkl"):
        contents = read_contents(path)
        assert contents.shapes == {"a.weight": (2, 2)}
        assert contents.config["MODEL"]["MASK_ON"] is True
    (tmp_path / "config.yaml").write_text("learning_rate: 0.1\n")
    assert read_contents(tmp_path / "model_final.pkl").config == {}
    (tmp_path / "other.pth").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"expected one weights file beside config\.yaml, found model_final\.pkl, other\.pth"
    ):
        read_contents(tmp_path)


@pytest.mark.parametrize(
    ("rounding", "expected"), [("nearest", (800, 1067)), ("down", (800, 1066)), ("half_up", (800, 1067))]
)
def test_sides_are_rounded_as_the_source_does(rounding, expected):
    assert ResizeRule(shortest=800, longest=1333, rounding=rounding).size((480, 640)) == expected
    assert ResizeRule(shortest=5, rounding=rounding).size((2, 1))[1] == 5


def test_halves_are_rounded_up_by_detectron2():
    sizes = {rule: ResizeRule(shortest=5, rounding=rule).size((10, 25)) for rule in ("nearest", "down", "half_up")}
    assert sizes == {"nearest": (5, 12), "down": (5, 12), "half_up": (5, 13)}
