"""The confusion matrix against a loop over pixels and against the field's tools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.metrics.confusion import ConfusionMatrix, count_pixels

DTYPES = (np.uint8, np.uint16, np.int32, np.int64, np.uint64, np.int16)


def twin(prediction, target, classes, ignore=255):
    """The definition, pixel by pixel."""
    matrix, unanswered, ignored = np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64), 0
    for truth, found in zip(target.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if truth == ignore:
            ignored += 1
        elif found == ignore:
            unanswered[truth] += 1
        else:
            matrix[truth, found] += 1
    return matrix, unanswered, ignored


def runs(generator, count, classes, longest=150):
    """(count,) labels in runs, with ignore and errors; the shape of real maps."""
    lengths = generator.integers(1, longest, count)
    labels = np.repeat(generator.integers(0, classes, count), lengths)[:count].astype(np.uint8)
    wrong = np.repeat(generator.random(count) < 0.2, generator.integers(1, longest, count))[:count]
    prediction = np.where(wrong, generator.integers(0, classes, count), labels).astype(np.uint8)
    for array in (labels, prediction):
        start = int(generator.integers(0, count))
        array[start : start + count // 9] = 255
    return prediction, labels


def assert_same(found, expected):
    np.testing.assert_array_equal(found.matrix, expected[0])
    np.testing.assert_array_equal(found.unanswered, expected[1])
    assert found.ignored == expected[2]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 7, 8, 9, 63, 64, 65, 127, 640, 3001]),
    classes=st.sampled_from([1, 2, 3, 19, 64, 200, 253, 254, 255]),
    longest=st.sampled_from([2, 12, 150]),
    offset=st.integers(0, 9),
)
def test_equals_the_loop_over_pixels(seed, count, classes, longest, offset):
    prediction, target = runs(np.random.default_rng(seed), count + offset, classes, longest)
    prediction, target = prediction[offset:], target[offset:]  # unaligned as well
    assert_same(count_pixels(prediction, target, classes=classes), twin(prediction, target, classes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 19, 255, 300])
def test_every_integer_type_and_layout(dtype, classes):
    generator = np.random.default_rng(3)
    ignore = 60_000 if classes == 300 and dtype != np.int16 else 30_000 if classes == 300 else 255
    if classes == 300 and dtype == np.uint8:
        pytest.skip("300 classes do not fit 8 bits")
    prediction, target = (generator.integers(0, classes, (37, 53)).astype(dtype) for _ in range(2))
    target[5:9], prediction[8:12] = ignore, ignore
    expected = twin(prediction, target, classes, ignore)
    assert_same(count_pixels(prediction, target, classes=classes, ignore=ignore), expected)
    assert_same(count_pixels(prediction.T, target.T, classes=classes, ignore=ignore), expected)
    every_other = twin(prediction[::2, 1::3], target[::2, 1::3], classes, ignore)
    assert_same(count_pixels(prediction[::2, 1::3], target[::2, 1::3], classes=classes, ignore=ignore), every_other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_torch_on_the_cpu(dtype):
    prediction, target = runs(np.random.default_rng(1), 5000, 19)
    found = count_pixels(torch.from_numpy(prediction).to(dtype), torch.from_numpy(target).to(dtype), classes=19)
    assert_same(found, twin(prediction, target, 19))
    assert_same(count_pixels(prediction, torch.from_numpy(target), classes=19), twin(prediction, target, 19))


def test_the_device_path_on_any_device():
    from nuriwake.metrics.tensors import count_on_device

    prediction, target = runs(np.random.default_rng(2), 5000, 19)
    device = "cuda" if torch.cuda.is_available() else "meta"
    if device == "meta":
        # The same code on CPU tensors: only the choice of the device is left out.
        import nuriwake.metrics.tensors as tensors

        rows, columns = (tensors._slots(torch.from_numpy(labels), 19, 255) for labels in (target, prediction))
        table = torch.bincount(rows * 21 + columns, minlength=441).reshape(21, 21).numpy()
        assert_same(tensors.from_table(table, prediction, target, 255), twin(prediction, target, 19))
    else:
        found = count_on_device(torch.from_numpy(prediction).cuda(), torch.from_numpy(target).cuda(), 19, 255)
        assert_same(found, twin(prediction, target, 19))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: counting where the tensors are")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_torch_on_the_gpu(dtype):
    prediction, target = runs(np.random.default_rng(1), 50_000, 19)
    on_gpu = [torch.from_numpy(labels).to(dtype).cuda() for labels in (prediction, target)]
    assert_same(count_pixels(*on_gpu, classes=19), twin(prediction, target, 19))
    on_gpu[0][7] = 77
    with pytest.raises(UserError, match="found 77"):
        count_pixels(*on_gpu, classes=19)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["target", "prediction"])
@pytest.mark.parametrize("label", [19, 254, -1])
def test_a_label_beyond_the_classes_is_an_error_and_counts_nothing(dtype, place, label):
    if label < 0 and np.dtype(dtype).kind == "u":
        pytest.skip("unsigned")
    maps = {"prediction": np.zeros((9, 70), dtype), "target": np.zeros((9, 70), dtype)}
    confusion = ConfusionMatrix(19)
    confusion.update(**maps)
    maps[place][4, 33] = label
    with pytest.raises(UserError, match=rf"{place} must be 0\.\.18 or 255 \(ignore\), found {label}\."):
        confusion.update(**maps)
    assert confusion.matrix.sum() == 630


def test_without_ignore_255_is_a_label_like_any_other():
    labels = np.array([0, 1, 255], np.uint8)
    with pytest.raises(UserError, match=r"must be 0\.\.1, found 255"):
        count_pixels(labels, labels, classes=2, ignore=None)
    assert count_pixels(labels, labels, classes=256, ignore=None).matrix[255, 255] == 1


def test_negative_ignore():
    target, prediction = np.array([0, 1, -100, 1]), np.array([0, 0, 1, -100])
    assert_same(count_pixels(prediction, target, classes=2, ignore=-100), twin(prediction, target, 2, -100))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "same shape"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), "integer labels, found float32"),
    ],
)
def test_wrong_input(prediction, target, message):
    with pytest.raises(UserError, match=message):
        count_pixels(prediction, target, classes=2)


def test_wrong_settings():
    with pytest.raises(UserError, match="at least one class"):
        ConfusionMatrix(0)
    with pytest.raises(UserError, match="is one of the 3 classes"):
        ConfusionMatrix(3, ignore=2)
    with pytest.raises(UserError, match="cannot take one of 4"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))


def test_merge_equals_whole_and_the_state_travels():
    prediction, target = runs(np.random.default_rng(5), 4000, 7)
    whole, first, second = ConfusionMatrix(7), ConfusionMatrix(7), ConfusionMatrix(7)
    whole.update(prediction, target)
    first.update(prediction[:1234], target[:1234])
    second.update(prediction[1234:], target[1234:])
    second.load(second.counts())
    first.merge(second)
    assert_same(first.total, whole.total)


def test_real_masks(shared):
    from PIL import Image

    for path in sorted((shared / "data/camvid/masks/val").glob("*.png"))[:3]:
        target = np.array(Image.open(path))
        prediction = np.roll(target, 5, 1)
        prediction[prediction == 255] = 0
        kept = target != 255
        expected = np.bincount(target[kept] * 11 + prediction[kept], minlength=121).reshape(11, 11)
        np.testing.assert_array_equal(count_pixels(prediction, target, classes=11).matrix, expected)
