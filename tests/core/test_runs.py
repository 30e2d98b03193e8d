"""Run-length masks beside dense twins and beside pycocotools."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuriwake.core.errors import UserError
from nuriwake.core.runs import RunMasks

SIZES = st.tuples(st.integers(1, 19), st.integers(1, 21))


@st.composite
def stacks(draw, size=SIZES, most=4):
    """Dense masks of all kinds: empty, full, noise, rectangles, stripes."""
    height, width = draw(size) if not isinstance(size, tuple) else size
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    masks = np.zeros((draw(st.integers(0, most)), height, width), bool)
    for mask in masks:
        kind = generator.integers(5)
        if kind == 0:
            mask[...] = generator.random(mask.shape) < generator.random()
        elif kind == 1:
            mask[...] = True
        elif kind == 2:
            mask[:, generator.integers(width) :: 3] = True
        elif kind == 3:
            y, x = generator.integers(height), generator.integers(width)
            mask[y : y + generator.integers(1, 9), x : x + generator.integers(1, 9)] = True
    return masks


@st.composite
def pairs(draw):
    size = draw(SIZES)
    return draw(stacks(size)), draw(stacks(size))


def coco_module():
    return pytest.importorskip("pycocotools.mask")


def column_major(masks):
    return np.asfortranarray(masks.astype(np.uint8).transpose(1, 2, 0))


def box_twin(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [0, 0, 0, 0]


@settings(deadline=None, max_examples=150)
@given(stacks())
def test_dense_and_back_with_areas_and_boxes(masks):
    runs = RunMasks.from_dense(masks)
    np.testing.assert_array_equal(runs.dense(), masks)
    np.testing.assert_array_equal(runs.areas(), masks.sum((1, 2)))
    np.testing.assert_array_equal(runs.boxes(), np.array([box_twin(mask) for mask in masks]).reshape(-1, 4))
    assert runs.boxes().dtype == np.float32
    assert runs.areas().dtype == np.int64


@settings(deadline=None, max_examples=100)
@given(stacks(), st.booleans())
def test_bytes_are_cocos(masks, compressed):
    coco = coco_module()
    runs = RunMasks.from_dense(masks)
    ours, theirs = runs.to_coco(compressed), coco.encode(column_major(masks)) if len(masks) else []
    if not compressed:
        theirs = [dict(item, counts=counts) for item, counts in zip(theirs, map(counts_twin, masks), strict=True)]
    assert [item["counts"] for item in ours] == [
        item["counts"].decode() if compressed else item["counts"] for item in theirs
    ]
    assert all(item["size"] == list(masks.shape[1:]) for item in ours)
    again = RunMasks.from_coco(ours, masks.shape[1:])
    np.testing.assert_array_equal(again.counts, runs.counts)
    np.testing.assert_array_equal(RunMasks.from_coco(theirs, masks.shape[1:]).counts, runs.counts)


def counts_twin(mask):
    out, value, length = [], False, 0
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            out, value, length = [*out, length], pixel, 0
        length += 1
    return [*out, length]


@settings(deadline=None, max_examples=150)
@given(pairs(), st.integers(0, 15))
def test_iou_and_intersections(two, crowds):
    first, second = two
    a, b = RunMasks.from_dense(first), RunMasks.from_dense(second)
    common = (first[:, None] & second[None]).sum((2, 3))
    np.testing.assert_array_equal(a.intersections(b), common)
    crowd = np.array([crowds >> bit & 1 for bit in range(len(second))], bool)
    union = (first[:, None] | second[None]).sum((2, 3))
    union = np.where(crowd[None], first.sum((1, 2))[:, None], union)
    np.testing.assert_array_equal(a.iou(b, crowd), common / np.maximum(union, 1))
    if len(a) and len(b):
        coco = coco_module()
        theirs = coco.iou(coco.encode(column_major(first)), coco.encode(column_major(second)), crowd.tolist())
        np.testing.assert_array_equal(a.iou(b, crowd), theirs)


@settings(deadline=None, max_examples=100)
@given(stacks())
def test_union(masks):
    runs = RunMasks.from_dense(masks)
    np.testing.assert_array_equal(runs.merge().dense()[0], masks.any(0))
    if len(masks):
        theirs = coco_module().merge(coco_module().encode(column_major(masks)))
        assert runs.merge().to_coco()[0]["counts"] == theirs["counts"].decode()


@settings(deadline=None, max_examples=150)
@given(stacks(), st.integers(-9, 25), st.integers(-9, 25), SIZES)
def test_window(masks, top, left, size):
    twin = np.zeros((len(masks), *size), bool)
    for y in range(size[0]):
        for x in range(size[1]):
            if 0 <= y + top < masks.shape[1] and 0 <= x + left < masks.shape[2]:
                twin[:, y, x] = masks[:, y + top, x + left]
    found = RunMasks.from_dense(masks).window(top, left, size)
    np.testing.assert_array_equal(found.dense(), twin)
    np.testing.assert_array_equal(found.counts, RunMasks.from_dense(twin).counts)


@settings(deadline=None, max_examples=150)
@given(stacks(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_resize(masks, size):
    rows, columns = (
        np.floor((np.arange(after) + 0.5) * before / after + 1e-9).astype(int)
        for before, after in zip(masks.shape[1:], size, strict=True)
    )
    found = RunMasks.from_dense(masks).resize(size)
    np.testing.assert_array_equal(found.dense(), masks[:, rows][:, :, columns])


@settings(deadline=None, max_examples=100)
@given(stacks())
def test_flips(masks):
    runs = RunMasks.from_dense(masks)
    for direction, axis in (("horizontal", 2), ("vertical", 1)):
        found = runs.flip(direction)
        np.testing.assert_array_equal(found.dense(), np.flip(masks, axis))
        np.testing.assert_array_equal(found.counts, RunMasks.from_dense(np.flip(masks, axis)).counts)


@settings(deadline=None, max_examples=100)
@given(stacks(), st.sampled_from([np.uint8, np.int32, np.int64, np.uint16]))
def test_paint(masks, dtype):
    runs = RunMasks.from_dense(masks)
    canvas, twin = np.full(masks.shape[1:], 7, dtype), np.full(masks.shape[1:], 7, dtype)
    values = np.arange(len(masks)) * 3
    runs.paint(canvas, values)
    for mask, value in zip(masks, values, strict=True):
        twin[mask] = value
    np.testing.assert_array_equal(canvas, twin)


@settings(deadline=None, max_examples=100)
@given(SIZES, st.integers(0, 2**20), st.sampled_from([np.uint8, np.uint16, np.int32, np.uint32]))
def test_labels(size, seed, dtype):
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, 5, size).astype(dtype)
    if seed % 2:
        ids = np.kron(ids, np.ones((3, 4), dtype))[: size[0], : size[1]]
    values = generator.permutation([0, 1, 2, 4, 90])[: generator.integers(0, 6)]
    runs = RunMasks.from_labels(ids, values)
    twin = RunMasks.from_dense(np.stack([ids == value for value in values])) if len(values) else RunMasks.empty(size)
    np.testing.assert_array_equal(runs.counts, twin.counts)
    np.testing.assert_array_equal(runs.offsets, twin.offsets)


@settings(deadline=None, max_examples=100)
@given(stacks(), st.tuples(st.integers(-9, 20), st.integers(-9, 20), st.integers(-9, 30), st.integers(-9, 30)))
def test_crop_dense(masks, box):
    left, top, right, bottom = box
    runs = RunMasks.from_dense(masks)
    for index, mask in enumerate(masks):
        padded = np.pad(mask, ((40, 40), (40, 40)))
        twin = padded[top + 40 : max(bottom, top) + 40, left + 40 : max(right, left) + 40]
        np.testing.assert_array_equal(runs.crop_dense(index, box), twin)


def test_dense_of_large_masks_any_nonzero_value_and_any_layout():
    generator = np.random.default_rng(0)
    for height, width in ((300, 512), (257, 301), (70, 1024)):
        masks = np.kron(generator.integers(0, 3, (2, 12, 15)), np.ones((1, 30, 80)))[:, :height, :width].astype(
            np.uint8
        )
        masks[0, 5:200] *= 100
        masks[:, :, 100] = generator.random((2, masks.shape[1])) < 0.5
        for layout in (masks, np.asfortranarray(masks), masks[:, ::-1]):
            np.testing.assert_array_equal(RunMasks.from_dense(layout).dense(), layout != 0)


def run_twin(mask):
    """Run lengths down the columns by asking every pixel."""
    runs, now = [0], False
    for value in (mask != 0).ravel(order="F").tolist():
        if value != now:
            runs, now = [*runs, 0], value
        runs[-1] += 1
    return runs


@settings(deadline=None, max_examples=120)
@given(
    st.tuples(st.integers(1, 20), st.sampled_from([1, 2, 28, 63, 64, 65, 127, 128, 129, 200])),
    st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    st.sampled_from([1, 7, 40]),
    st.sampled_from(["rows", "columns", "every second", "mirrored", "bool"]),
    st.integers(0, 2**20),
)
def test_encoding_of_any_width_and_layout(size, share, grain, layout, seed):
    generator = np.random.default_rng(seed)
    height, width = size
    coarse = generator.random((2, -(-height // grain), -(-width // grain))) < share
    masks = np.kron(coarse, np.ones((1, grain, grain), np.uint8))[:, :height, :width].astype(np.uint8)
    masks *= generator.integers(1, 256, masks.shape).astype(np.uint8)
    masks[:, -1, :] |= masks[:, 0, :]  # runs that go on from column to column
    wide = np.repeat(np.repeat(masks, 2, 1), 2, 2)
    given_as = {
        "rows": masks,
        "columns": np.asfortranarray(masks),
        "every second": wide[:, ::2, 1::2],
        "mirrored": masks[:, ::-1, ::-1],
        "bool": masks != 0,
    }[layout]
    found = RunMasks.from_dense(given_as)
    for index, mask in enumerate(given_as):
        assert found.counts[found.offsets[index] : found.offsets[index + 1]].tolist() == run_twin(mask)


def test_choosing_and_putting_together():
    masks = np.random.default_rng(0).random((5, 7, 9)) < 0.5
    runs = RunMasks.from_dense(masks)
    for index in (
        slice(1, 4),
        slice(None, None, -1),
        [3, 0, 0],
        np.array([4, 1]),
        masks[:, 0, 0],
        [],
        np.array([], int),
    ):
        np.testing.assert_array_equal(runs[index].dense(), masks[index])
        np.testing.assert_array_equal(runs.dense(index), masks[index])
    assert len(runs[-1]) == 1
    np.testing.assert_array_equal(runs[-1].dense()[0], masks[-1])
    with pytest.raises(IndexError):
        runs[5]
    whole = RunMasks.concatenate([runs[:2], RunMasks.empty((7, 9)), runs[2:]])
    np.testing.assert_array_equal(whole.dense(), masks)
    with pytest.raises(UserError, match="one size"):
        RunMasks.concatenate([runs, runs.resize((3, 3))])
    with pytest.raises(UserError, match="one size"):
        runs.iou(runs.resize((3, 3)))


def test_zero_length_runs_anywhere():
    runs = RunMasks(np.array([0, 2, 0, 1, 3, 0, 0, 2, 0, 0], np.uint32), np.array([0, 10]), (4, 2))
    twin = np.array([[1, 0], [1, 0], [1, 1], [0, 1]], bool)[None]
    np.testing.assert_array_equal(runs.dense(), twin)
    assert runs.boxes().tolist() == [[0, 0, 2, 4]]
    assert runs.iou(RunMasks.from_dense(twin)).tolist() == [[1.0]]
    np.testing.assert_array_equal(runs.flip("horizontal").dense(), twin[:, :, ::-1])
    np.testing.assert_array_equal(runs.merge().counts, RunMasks.from_dense(twin).counts)


def test_boxes_are_filled_as_coco_does():
    coco = coco_module()
    generator = np.random.default_rng(0)
    boxes = generator.uniform(-5, 40, (60, 4)).astype(np.float32)
    boxes[:20] = boxes[:20].round()
    boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
    exact = boxes.astype(np.float64)
    xywh = np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], 1)
    theirs = coco.frPyObjects(xywh, 30, 40)
    assert [item["counts"].encode() for item in RunMasks.from_boxes(boxes, (30, 40)).to_coco()] == [
        item["counts"] for item in theirs
    ]
    assert RunMasks.from_boxes(np.array([[2, 3, 5, 9.0]]), (30, 40)).boxes().tolist() == [[2, 3, 5, 9]]


def test_pickling():
    runs = RunMasks.from_dense(np.eye(5, dtype=bool)[None])
    again = pickle.loads(pickle.dumps(runs))
    np.testing.assert_array_equal(again.dense(), runs.dense())
    assert again.size == (5, 5)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "mask 0 cover 3 pixels, expected 2x3 = 6"),
        ({"size": [2, 3], "counts": [1, 2, 9]}, "cover 12 pixels, expected 2x3 = 6"),
        ({"size": [2, 3], "counts": []}, "cover 0 pixels"),
        ({"size": [2, 3], "counts": [-1, 7]}, "whole numbers from 0"),
        ({"size": [2, 3], "counts": [1.5, 4.5]}, "whole numbers from 0"),
        ({"size": [2, 3], "counts": [[1], 5]}, "whole numbers from 0"),
        ({"size": [2, 3]}, "found None"),
        ({"size": [2], "counts": [6]}, r"\[height, width\], found \[2\]"),
        ({"counts": [6]}, r"\[height, width\], found None"),
        ({"size": [0, 3], "counts": []}, "found a size of 0x3"),
        ({"size": [2, 3], "counts": "6~"}, "damaged at character 2 of 2, '~'"),
        ({"size": [2, 3], "counts": b"6 "}, "damaged at character 2 of 2, ' '"),
        ({"size": [2, 3], "counts": "V"}, "damaged at character 1 of 1"),
        ({"size": [2, 3], "counts": "o" * 20}, "damaged at character"),
        ({"size": [2, 3], "counts": "O"}, "damaged at character 1 of 1"),
    ],
)
def test_foreign_runs_are_read_strictly(item, words):
    with pytest.raises(UserError, match=words):
        RunMasks.from_coco([item])


def test_foreign_sizes():
    one, other = {"size": [2, 3], "counts": [6]}, {"size": [3, 2], "counts": [6]}
    with pytest.raises(UserError, match="Mask 1 has the size 3x2, expected 2x3"):
        RunMasks.from_coco([one, other])
    with pytest.raises(UserError, match="Mask 0 has the size 2x3, expected 4x4"):
        RunMasks.from_coco([one], (4, 4))
    with pytest.raises(UserError, match="No masks and no size"):
        RunMasks.from_coco([])
    assert len(RunMasks.from_coco([], (4, 4))) == 0


@pytest.mark.parametrize(
    ("counts", "offsets", "words"),
    [
        (np.array([6], np.int32), np.array([0, 1]), "counts is uint32"),
        (np.array([6], np.uint32), np.array([0, 1], np.int32), "offsets is int64"),
        (np.array([6], np.uint32), np.array([0, 2]), "offsets ascend"),
        (np.array([6, 6], np.uint32), np.array([0, 2, 1, 2]), "offsets ascend"),
        (np.array([6, 5], np.uint32), np.array([0, 1, 2]), "mask 1 cover 5 pixels, expected 2x3 = 6"),
    ],
)
def test_refusals(counts, offsets, words):
    with pytest.raises(UserError, match=words):
        RunMasks(counts, offsets, (2, 3))


def test_refused_arrays():
    with pytest.raises(UserError, match="found float64"):
        RunMasks.from_dense(np.zeros((1, 2, 3)))
    with pytest.raises(UserError, match="found float32"):
        RunMasks.from_labels(np.zeros((2, 3), np.float32), np.array([1]))
    with pytest.raises(UserError, match="4 stands more than once"):
        RunMasks.from_labels(np.zeros((2, 3), np.int32), np.array([4, 1, 4]))
    with pytest.raises(UserError, match="canvas"):
        RunMasks.empty((2, 3)).paint(np.zeros((3, 2), np.int32), np.array([]))


def test_a_thousand_objects_of_a_large_image_stay_small():
    generator = np.random.default_rng(0)
    size, corner = (4000, 6000), generator.uniform(0, 0.9, (1000, 2)) * (6000, 4000)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], 1) * 150 + 150
    tracemalloc.start()
    runs = RunMasks.from_polygons([[(outline + place).reshape(-1)] for place in corner], size)
    runs.areas(), runs.boxes()
    moved = runs.window(100, 100, (3000, 3000)).resize((1500, 1500)).flip("horizontal")
    moved.to_coco()
    runs.iou(runs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert runs.counts.nbytes < 4e6
    assert peak < 60e6, f"{peak / 1e6:.0f} MB; the dense masks would have 24000"
