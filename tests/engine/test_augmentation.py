"""What augments: presets with changes, operations by name, the user's own pipeline; and drawing images by their classes."""

import os
import sys
import weakref
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
import torch

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.data.formats import open_data
from nuriwake.engine.augmentation import training_augmentation, try_pipeline
from nuriwake.engine.config import AugmentationConfig, RunConfig, override, read_overrides
from nuriwake.engine.distribution import join_team
from nuriwake.engine.facts import channel_statistics, data_facts, full_brightness, image_moments
from nuriwake.engine.lock import Lock
from nuriwake.engine.samples import IMAGENET, batches
from nuriwake.engine.setup import prepare_job
from nuriwake.engine.stream import DrawStream, Order
from nuriwake.engine.train import train
from nuriwake.tasks import get_task
from nuriwake.transforms.geometric import Elastic, HorizontalFlip, RandomCrop
from nuriwake.transforms.mixing import CutMix
from nuriwake.transforms.photometric import Gamma
from nuriwake.transforms.pipeline import Pipeline

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

OWN = """
import albumentations as A
from nuriwake.transforms import Pipeline
from nuriwake.transforms.geometric import CentralCrop

ours = Pipeline((CentralCrop(),), (), (24, 24))
theirs = A.Compose([A.RandomCrop(32, 32), A.HorizontalFlip(p=0.5)])
larger = A.Compose([A.RandomCrop(44, 44)])
neither = [1]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    pytest.importorskip("albumentations")
    (tmp_path / "my_augmentation.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_augmentation", raising=False)
    yield tmp_path
    sys.modules.pop("my_augmentation", None)


def first(config: RunConfig, count=3):
    data = open_data(config.data.path)
    team = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"))
    return list(islice(batches(config, data, get_task("semantic"), IMAGENET, team, start=0), count))


def test_yaml_names_operations(tmp_path, tiny_config):
    file = tmp_path / "config.yaml"
    file.write_text(
        "augmentation:\n  geometric:\n  - random_crop: {zoom: [0.5, 2]}\n  - elastic: {strength: 0.1}\n  - horizontal_flip\n"
        "  photometric: [gamma]\n  mixing:\n  - cut_mix: {probability: 1}\n"
    )
    config = tiny_config(read_overrides(file))
    assert override(config, {}) == config
    pipeline = training_augmentation(config.augmentation, 3)
    assert isinstance(pipeline, Pipeline)
    assert pipeline.geometric == (RandomCrop(zoom=(0.5, 2.0)), Elastic(strength=0.1), HorizontalFlip())
    assert (pipeline.photometric, pipeline.mixing) == ((Gamma(),), (CutMix(probability=1.0),))
    one, again, other = first(config), first(config), first(override(config, {"seed": 1}))
    for a, b, c in zip(one, again, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert not torch.equal(a.images, c.images)
    plain = first(override(config, {"augmentation.mixing": []}))
    assert not torch.equal(plain[0].images, one[0].images)


@pytest.mark.parametrize("name", [None, "ours"])
def test_the_loss_of_a_model_with_a_margin_sees_the_border_of_images(own, tiny_config, name):
    """Crops were placed inside the image, margin and all, so that its outermost pixels were never learnt."""
    config = tiny_config({"augmentation.preset": "none", "augmentation.crop_size": 24})
    config = override(config, {"augmentation.pipeline": f"my_augmentation:{name}" if name else None})
    pipeline = training_augmentation(config.augmentation, 3, margin=6)
    assert (pipeline.size, pipeline.margin) == ((24, 24), 6)
    data = open_data(config.data.path)
    team = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"))
    found = islice(batches(config, data, get_task("semantic"), IMAGENET, team, start=0, margin=6), 20)
    known = [get_task("semantic").crop(batch.targets, 6) != IGNORE for batch in found]
    assert all(inside.all() for inside in known)
    tops = [pipeline.plan((40, 48), np.random.default_rng(seed)).landing((0, 0))[0] for seed in range(99)]
    assert name is not None or max(tops) == 6


def test_a_run_gives_its_augmentation_the_margin_of_its_model(tiny_config):
    options = {"model.name": "unet_valid", "model.options": {"width": 2}, "augmentation.crop_size": 188}
    config = tiny_config({**options, "augmentation.preset": "none", "augmentation.balance": 0})
    lock = Lock(config.out)
    job = prepare_job(config, join_team("cpu"), lock=lock, resume=False, report=lambda line: None)
    lock.release()
    # 4 pixels are within the margin of 92: placed in the image, whose other pixels surround them.
    truth = torch.stack([batch.targets for batch in islice(job.batches(), 3)])
    assert (job.task.crop(truth, job.model.margin) != IGNORE).all()


def test_the_scale_goes_to_crops_that_have_no_zoom_of_their_own():
    own = (
        "random_crop",
        {"random_crop": {"stretch": [0.9, 1.1]}},
        {"random_crop": {"zoom": [1, 1]}},
        "horizontal_flip",
    )
    augmentation = AugmentationConfig("natural", 32, scale=(0.5, 2.0), geometric=own)
    assert training_augmentation(augmentation, 3).geometric == (
        RandomCrop(zoom=(0.5, 2.0)),
        RandomCrop(zoom=(0.5, 2.0), stretch=(0.9, 1.1)),
        RandomCrop(),
        HorizontalFlip(),
    )
    without = replace(augmentation, scale=None)
    assert training_augmentation(without, 3).geometric[0] == RandomCrop()
    with pytest.raises(UserError, match="expected one operation"):
        training_augmentation(replace(augmentation, geometric=({"random_crop": {}, "fit": {}},)), 3)


@pytest.mark.parametrize(("name", "side"), [("ours", 24), ("theirs", 32)])
def test_a_pipeline_of_the_users_own(own, tiny_config, name, side):
    config = tiny_config({"augmentation.pipeline": f"my_augmentation:{name}"})
    (one,), (again,) = first(config, 1), first(config, 1)
    assert one.images.shape == (4, 3, side, side)
    assert torch.equal(one.images, again.images)
    workers = override(config, {"data.workers": 1})
    assert torch.equal(first(workers, 1)[0].images, one.images)


def test_a_pipeline_that_fails_on_the_smallest_image_leaves_no_run_folder(own, tiny_config, draw):
    root = draw(own / "discs")
    larger = {"augmentation.pipeline": "my_augmentation:larger", "augmentation.crop_size": 44}
    config = tiny_config({"data.path": str(root), **larger})
    for kind in ("images", "masks"):
        file = root / kind / "train" / "train00.png"
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file), -1), (60, 50), interpolation=cv2.INTER_NEAREST))
    with pytest.raises(UserError, match=r"fails on '.*train0[1-9]' \(40x48 pixels\): CropSizeError"):
        train(config)
    assert not config.out.exists()


def test_float_images_that_albumentations_clips_are_said(own, tmp_path):
    for name in "abc":
        for kind, array in (("images", np.full((40, 40), -900, np.float32)), ("masks", np.eye(40, dtype=np.uint8))):
            (tmp_path / "ct" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "ct" / kind / f"{name}.tif", array)
    augmentation = AugmentationConfig("none", 32, pipeline="my_augmentation:theirs")
    with pytest.warns(UserWarning, match="clips float images to 0..1 .* reaches from -900 to -900"):
        try_pipeline(augmentation, open_data(tmp_path / "ct"), "train", margin=0)


def test_a_pipeline_of_ones_own_must_hold_the_margin(own, tmp_path, draw):
    augmentation = AugmentationConfig("none", 24, pipeline="my_augmentation:ours")
    with pytest.raises(UserError, match="margin"):
        try_pipeline(augmentation, open_data(draw(tmp_path / "discs")), "train", margin=12)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"pipeline": "my_augmentation:neither"},
            "is a list; expected a nuriwake Pipeline or an albumentations.Compose",
        ),
        ({"pipeline": "my_augmentation:thers"}, "Did you mean 'theirs'"),
        ({"pipeline": "my_augmentation"}, "expected 'module:name'"),
        ({"pipeline": "no_such_module:x"}, "does not import"),
        ({"pipeline": "my_augmentation:ours", "geometric": ("fit",)}, "augmentation.geometric: .* leave one out"),
        ({"pipeline": "my_augmentation:theirs", "balance": 0.5}, "augmentation.balance: .* set it to 0"),
        ({"geometric": ("elastc",)}, r"augmentation.geometric\[0\]: .*Did you mean 'elastic'"),
    ],
)
def test_what_is_no_pipeline_is_said(own, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        training_augmentation(AugmentationConfig("none", 32, **fields), 3)


def test_images_with_rare_classes_are_drawn_more_often(draw, tmp_path, tiny_config):
    import cv2

    folder = draw(tmp_path / "data", train=10)
    for path in sorted((folder / "masks" / "train").iterdir())[1:]:
        cv2.imwrite(str(path), np.zeros((40, 48), np.uint8))
    config = tiny_config({"data.path": folder, "augmentation.balance_images": True, "augmentation.preset": "none"})
    names = [name for batch in first(config, 60) for name in batch.names]
    assert [name for batch in first(config, 60) for name in batch.names] == names
    rare = sum(name.endswith("00") for name in names) / len(names)
    assert 0.15 < rare < 0.3  # sqrt(0.55 / 0.1) = 2.3 times as often as each of the nine others
    plain = [
        name for batch in first(override(config, {"augmentation.balance_images": False}), 60) for name in batch.names
    ]
    assert sum(name.endswith("00") for name in plain) == len(plain) // 10


def test_a_weighted_stream_begins_anywhere():
    weights = np.array([1.0, 3.0, 1.0, 0.5])
    whole = list(islice(DrawStream(Order(4, seed=2), start=0, weights=weights), 30))
    assert list(islice(DrawStream(Order(4, seed=2), start=11, weights=weights), 19)) == whole[11:]


def test_statistics_of_float_images():
    image = np.linspace(-1000, 3000, 600, dtype=np.float32).reshape(20, 30, 1)
    holes = image.copy()
    holes[0, 0], holes[1, 1] = np.nan, np.inf
    finite = [holes[np.isfinite(holes)], image.ravel()]
    moments = [image_moments(array, base) for array, base in zip((holes, image), (-1000.0, 5.0), strict=True)]
    values = np.concatenate(finite) / 3000
    (mean,), (deviation,) = channel_statistics(moments, unit=[3000.0, 3000.0])
    assert abs(mean - values.mean()) < 1e-4
    assert abs(deviation - values.std()) < 1e-4
    levelled = np.concatenate([(finite[0] + 1000) / 4000, (finite[1] - 200) / 50])
    (mean,), (deviation,) = channel_statistics(moments, unit=[4000.0, 50.0], zero=[-1000.0, 200.0])
    assert abs(mean - levelled.mean()) < 1e-4
    assert abs(deviation - levelled.std()) < 1e-4


@pytest.mark.parametrize(
    ("highest", "dtype", "expected"),
    [
        (77, "uint8", 255),
        (3000.0, "float32", 3000),
        (0.0, "float32", 1),
        (4095, "uint16", 4095),
        (4096, "uint16", 8191),
    ],
)
def test_full_brightness(highest, dtype, expected):
    assert full_brightness(highest, dtype) == expected


def test_one_image_is_in_memory_at_a_time(disc_data, monkeypatch):
    """Photographs of 12 megapixels would fill any memory, 48 of them as floats."""
    data, alive = open_data(disc_data), []
    read = type(data).read

    def counted(self, record, *args, **options):
        sample = read(self, record, *args, **options)
        assert sum(reference() is not None for reference in alive) <= 1
        alive.append(weakref.ref(sample.image))
        return sample

    monkeypatch.setattr(type(data), "read", counted)
    data_facts(data, disc_data)
    assert len(alive) > 2


def test_no_object_is_mirrored_at_the_border():
    """What lies there is ignored in a label map; of objects a mirrored one would be learnt as background."""
    augmentation = AugmentationConfig("natural", 64, scale=(0.25, 0.25))
    image, ids = np.full((64, 64, 3), 10, np.uint8), np.zeros((64, 64), np.int32)
    image[24:40, 24:40], ids[24:40, 24:40] = 250, 1
    target = Instances(RunMasks.from_labels(ids, np.array([1])), np.zeros(1, np.int32), LabelSpace(("cell",), (True,)))
    for objects, copies in ((True, 1), (False, 2)):
        pipeline = replace(training_augmentation(augmentation, 3, objects=objects), photometric=())
        found = pipeline(Sample(image, target, name="x"), np.random.default_rng(0))
        bright = (found.image[..., 0] > 150).astype(np.uint8)
        count = cv2.connectedComponents(bright)[0] - 1
        assert count == 1 if copies == 1 else count > 1
        assert len(found.target) == 1
