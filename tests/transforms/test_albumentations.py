"""A user's albumentations pipeline."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.pixels import normalise
from nuriwake.core.runs import RunMasks
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.transforms import from_albumentations

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
A = pytest.importorskip("albumentations")

SPACE = LabelSpace(("a", "b", "c"))


def sample(channels=3, dtype="uint8", space=SPACE):
    rng = np.random.default_rng(0)
    image = (rng.random((40, 50, channels)) * (1 if dtype == "float32" else 255)).astype(dtype)
    shape = (40, 50) if space.exclusive else (40, 50, len(space))
    return Sample(image, SemanticMap(rng.integers(0, 2, shape).astype(np.uint8), space), name="x")


def compose(*more):
    return A.Compose([A.HorizontalFlip(p=0.5), A.Rotate(30, fill_mask=255, p=1.0), A.RandomCrop(32, 32), *more])


def test_same_seed_same_sample_whatever_came_before():
    transform = from_albumentations(compose(A.RandomBrightnessContrast(p=1.0)), size=(32, 32))
    first = transform(sample(), np.random.default_rng([0, 1, 2]))
    other = transform(sample(), np.random.default_rng([0, 1, 3]))
    again = transform(sample(), np.random.default_rng([0, 1, 2]))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.target.labels, again.target.labels)
    assert (first.image != other.image).any()
    assert first.name == "x"


def test_the_steps_of_a_pipeline_are_drawn_apart():
    nested = A.Compose(
        [A.HorizontalFlip(p=0.5), A.OneOf([A.VerticalFlip(p=1.0), A.NoOp(p=1.0)], p=1.0), A.RandomCrop(20, 25)]
    )
    transform = from_albumentations(nested)
    rows, columns = np.mgrid[:40, :50].astype(np.uint8)
    given = Sample(np.stack([rows, columns, rows], axis=2), None, name="x")
    drawn = [transform(given, np.random.default_rng([0, index])).image for index in range(400)]
    across = [bool(image[0, 0, 1] > image[0, -1, 1]) for image in drawn]
    down = [bool(image[0, 0, 0] > image[-1, 0, 0]) for image in drawn]
    left = [bool(image[..., 1].min() < 12) for image in drawn]
    for one, other in ((across, down), (across, left), (down, left)):
        table = np.histogram2d(one, other, bins=2, range=[[-0.5, 1.5]] * 2)[0] / 400
        np.testing.assert_allclose(table, np.outer(table.sum(1), table.sum(0)), atol=0.06)


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (5, "uint8"), (3, "float32")])
def test_channels_and_dtypes(channels, dtype):
    out = from_albumentations(compose())(sample(channels, dtype), np.random.default_rng(0))
    assert out.image.shape == (32, 32, channels)
    assert out.image.dtype == np.dtype(dtype)


def test_layers_and_no_target():
    many = LabelSpace(("a", "b", "c", "d", "e"), exclusive=False)
    transform = from_albumentations(compose())
    assert transform(sample(space=many), np.random.default_rng(0)).target.labels.shape == (32, 32, 5)
    assert transform(Sample(sample().image), np.random.default_rng(0)).target is None


@pytest.mark.parametrize("nested", [False, True])
def test_steps_that_are_ours_are_refused(nested):
    from albumentations.pytorch import ToTensorV2

    for step in (ToTensorV2(), A.Normalize()):
        with pytest.raises(UserError, match=f"contains {type(step).__name__}; take it out"):
            from_albumentations(compose(A.Sequential([step]) if nested else step))


def test_another_size_is_refused():
    with pytest.raises(UserError, match=r"returned 32x32 .* for 'x', but training needs 64x64"):
        from_albumentations(compose(), size=(64, 64))(sample(), np.random.default_rng(0))


def test_what_cannot_be_seeded_is_refused():
    with pytest.raises(UserError, match="without set_random_state"):
        from_albumentations(lambda image, mask: {"image": image, "mask": mask})


def test_what_comes_back_is_checked():
    class Odd:
        def set_random_state(self, numpy, plain):
            pass

        def __call__(self, image, mask):
            return {"image": image.astype(np.float64), "mask": mask}

    with pytest.raises(UserError, match="returned float64 for 'x', which is uint8"):
        from_albumentations(Odd())(sample(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("step", "dtype", "message"),
    [
        (lambda: A.ToFloat(p=1.0), "uint8", r"returned float32 for 'x', which is uint8; take out .*A\.ToFloat"),
        (lambda: A.FromFloat("uint8", p=1.0), "float32", "returned uint8 for 'x', which is float32"),
        (lambda: A.ToGray(num_output_channels=1, p=1.0), "uint8", r"returned 1 channels for 'x', which has 3"),
    ],
)
def test_an_image_of_another_kind_than_was_given_is_refused(step, dtype, message):
    numbers = {"mean": [0.5] * 3, "deviation": [0.5] * 3, "maximum": 255.0}
    with pytest.raises(UserError, match=message):
        from_albumentations(compose(step())).prepare(sample(dtype=dtype), np.random.default_rng(0), **numbers)


def test_a_pipeline_that_fails_says_on_which_image():
    with pytest.raises(UserError, match=r"fails on 'x' \(40x50 pixels\): CropSizeError: .*every training image"):
        from_albumentations(A.Compose([A.RandomCrop(64, 64)]))(sample(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (lambda: [A.Rotate(30, fill_mask=0)], "Rotate"),
        (
            lambda: [A.OneOf([A.Affine(), A.Rotate(30)]), A.Rotate(9), A.PadIfNeeded(64, 64)],
            "Affine, Rotate, PadIfNeeded",
        ),
        (lambda: [A.RandomCrop(64, 64, pad_if_needed=True)], "RandomCrop"),
    ],
)
def test_borders_that_would_be_learnt_as_class_0_are_said(steps, named):
    with pytest.warns(UserWarning, match=f"class 0, which is learnt there: {named}\\. .*fill_mask=255"):
        from_albumentations(A.Compose(steps()))


def test_nothing_is_said_of_borders_that_teach_nothing(recwarn):
    steps = [
        A.Rotate(30, fill_mask=255),
        A.Rotate(30, border_mode=cv2.BORDER_REFLECT_101),
        A.Rotate(30, crop_border=True),
        A.RandomCrop(32, 32),
        A.CoarseDropout(),
        A.HorizontalFlip(),
    ]
    from_albumentations(A.Compose(steps))
    assert not recwarn.list


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_prepare_is_the_call_and_the_normalisation(dtype):
    transform = from_albumentations(compose(), size=(32, 32))
    numbers = {"mean": [0.4, 0.5, 0.6], "deviation": [0.2, 0.3, 0.4], "maximum": 255.0}
    image, target = transform.prepare(sample(dtype=dtype), np.random.default_rng(1), **numbers)
    expected = transform(sample(dtype=dtype), np.random.default_rng(1))
    np.testing.assert_array_equal(image, normalise(expected.image, **numbers))
    np.testing.assert_array_equal(target.labels, expected.target.labels)
    with pytest.raises(UserError, match=r"returned 32x32 .* training needs 64x64"):
        from_albumentations(compose(), size=(64, 64)).prepare(sample(), np.random.default_rng(0), **numbers)
    with pytest.raises(UserError, match="balance to 0"):
        transform.prepare(sample(), np.random.default_rng(0), **numbers, focus=(3, 4))


def test_targets_of_objects_are_refused_with_a_sentence():
    """Their labels are one per object: given as a mask they came back as something else, or not at all."""
    space = LabelSpace(("cell",), things=(True,))
    objects = Instances(RunMasks.from_dense(np.ones((1, 40, 50), np.uint8)), np.zeros(1, np.int32), space)
    with pytest.raises(UserError, match=r"changes label maps, but 'x' has Instances: leave augmentation\.pipeline out"):
        from_albumentations(compose())(replace(sample(), target=objects), np.random.default_rng(0))
