"""Mixing, targets by type, and operations by name."""

from dataclasses import replace

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.pixels import normalise
from nuriwake.core.sample import Sample
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.core.targets import SemanticMap
from nuriwake.transforms.geometric import Elastic, HorizontalFlip, RandomCrop
from nuriwake.transforms.mixing import CutMix, MixingOperation, Mosaic
from nuriwake.transforms.operations import OPERATIONS, operations
from nuriwake.transforms.photometric import Gamma
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.presets import preset
from nuriwake.transforms.targets import WARPED, warp_target
from nuriwake.transforms.warp import Warp

SPACE = LabelSpace(tuple("abcdefgh"))
LAYERS = LabelSpace(("a", "b"), exclusive=False)


def flat(value, size=(40, 60), space=SPACE):
    """Image and labels say `value` everywhere, so that one tells where the other comes from."""
    labels = np.full(size, value) if space.exclusive else np.full((*size, len(space)), value % 2)
    return Sample(np.full((*size, 3), value, np.uint8), SemanticMap(labels.astype(np.uint8), space), name=f"s{value}")


def others(*values, **rest):
    given = iter(values)
    return lambda: flat(next(given), **rest)


@pytest.mark.parametrize("seed", range(8))
def test_cut_mix_pastes_one_rectangle_of_image_and_labels(seed):
    out = CutMix(area=(0.2, 0.4)).mix(flat(1), others(5), np.random.default_rng(seed))
    np.testing.assert_array_equal(out.image[..., 0], out.target.labels)
    rows, columns = np.nonzero(out.target.labels == 5)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    assert (out.target.labels[box] == 5).all()
    assert 0.18 < (out.target.labels == 5).mean() < 0.42
    assert set(np.unique(out.target.labels)) == {1, 5}


@pytest.mark.parametrize("seed", range(8))
def test_a_mosaic_shows_four_samples_in_their_quarters(seed):
    out = Mosaic(centre=(0.25, 0.75)).mix(flat(1), others(2, 3, 4), np.random.default_rng(seed))
    np.testing.assert_array_equal(out.image[..., 2], out.target.labels)
    labels = out.target.labels
    assert (labels[0, 0], labels[0, -1], labels[-1, 0], labels[-1, -1]) == (1, 2, 3, 4)
    row, column = (labels[:, 0] == 1).sum(), (labels[0] == 1).sum()
    assert 10 <= row <= 30
    assert 15 <= column <= 45
    assert (labels[:row, :column] == 1).all()
    assert (labels[row:, column:] == 4).all()


def block(focus, size):
    """Rows and columns of the focus and its neighbours inside the sample."""
    return tuple(slice(max(at - 1, 0), min(at + 2, side)) for at, side in zip(focus, size, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_without_a_focus_the_draws_are_the_published_ones(seed):
    rng, twin = np.random.default_rng(seed), np.random.default_rng(seed)
    out = CutMix(area=(0.2, 0.9)).mix(flat(1), others(5), rng).target.labels
    side = twin.uniform(0.2, 0.9) ** 0.5
    height, width = round(40 * side), round(60 * side)
    top, left = int(twin.integers(41 - height)), int(twin.integers(61 - width))
    expected = np.ones((40, 60))
    expected[top : top + height, left : left + width] = 5
    np.testing.assert_array_equal(out, expected)
    out = Mosaic().mix(flat(1), others(2, 3, 4), rng).target.labels
    row, column = round(40 * twin.uniform(0.3, 0.7)), round(60 * twin.uniform(0.3, 0.7))
    expected[:row, :column], expected[:row, column:], expected[row:, :column], expected[row:, column:] = 1, 2, 3, 4
    np.testing.assert_array_equal(out, expected)
    assert rng.bit_generator.state == twin.bit_generator.state


@pytest.mark.parametrize("focus", [(0, 0), (3, 57), (20, 30), (20, 3), (39, 59), (8, 40)])
def test_cut_mix_keeps_its_area_beside_the_focus(focus):
    kept, areas = block(focus, (40, 60)), []
    for seed in range(60):
        out = CutMix(area=(0.1, 0.5)).mix(flat(1), others(5), np.random.default_rng(seed), focus=focus).target.labels
        assert (out[kept] == 1).all()
        rows, columns = np.nonzero(out == 5)
        assert (out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 5).all()
        areas.append((out == 5).mean() - np.random.default_rng(seed).uniform(0.1, 0.5))
    # Beside the very middle there is room for a little less than half.
    assert max(areas) < 0.03
    assert min(areas) > -0.05


@pytest.mark.parametrize("focus", [(0, 0), (2, 3), (4, 6), (1, 5)])
def test_every_place_beside_the_focus_occurs(focus):
    size, reached = (6, 7), set()
    for seed in range(600):
        out = CutMix(area=(0.12, 0.12)).mix(
            flat(1, size=size), others(5, size=size), np.random.default_rng(seed), focus=focus
        )
        reached.add(tuple(np.argwhere(out.target.labels == 5)[0]))
    free = set()
    for top in range(5):
        for left in range(6):
            covered = np.zeros(size, bool)
            covered[top : top + 2, left : left + 2] = True
            if not covered[block(focus, size)].any():
                free.add((top, left))
    assert reached == free


@pytest.mark.parametrize("focus", [(0, 0), (5, 55), (33, 7), (39, 59), (20, 30), (16, 36)])
def test_a_mosaic_shows_the_quarter_of_the_focus(focus):
    for seed in range(30):
        out = Mosaic().mix(flat(1), others(2, 3, 4), np.random.default_rng(seed), focus=focus).target.labels
        assert (out[block(focus, (40, 60))] == 1).all()
        assert sorted((out[0, 0], out[0, -1], out[-1, 0], out[-1, -1])) == [1, 2, 3, 4]
        assert sum((out == value).mean() for value in (1, 2, 3, 4)) == pytest.approx(1)
        twin = np.random.default_rng(seed)
        row = round(40 * twin.uniform(0.3, 0.7))
        assert abs(int((out[:, 0] == out[0, 0]).sum()) - row) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 1), (3, 3), (5, 4)])
@pytest.mark.parametrize("operation", [CutMix(area=(0.1, 1.0)), Mosaic()])
def test_a_focus_is_seen_in_the_smallest_samples(operation, size):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        focus = tuple(int(rng.integers(side)) for side in size)
        out = operation.mix(flat(1, size=size), others(2, 3, 4, size=size), rng, focus=focus)
        assert (out.target.labels[block(focus, size)] == 1).all()


@pytest.mark.parametrize("name", ["none", "natural", "medical", "satellite"])
@pytest.mark.parametrize(
    "mixing",
    [(CutMix(probability=1),), (Mosaic(probability=1),), (CutMix(probability=1), Mosaic(probability=1))],
)
def test_patches_about_a_class_show_it_after_mixing(name, mixing):
    empty, labels = flat(0, size=(120, 140)), np.zeros((120, 140), np.uint8)
    labels[50:70, 60:80] = 1
    found = Sample(empty.image, SemanticMap(labels, SPACE))
    pipeline = replace(preset(name, (64, 64)), photometric=(), mixing=mixing)
    shown = 0
    for seed in range(500 if name == "none" else 125):
        rng = np.random.default_rng(seed)
        focus = (int(rng.integers(50, 70)), int(rng.integers(60, 80)))
        shown += bool((pipeline(found, rng, focus=focus, other=lambda: empty).target.labels == 1).any())
    assert shown == seed + 1


def test_layers_are_mixed_too_and_what_does_not_fit_is_refused():
    rng = np.random.default_rng(0)
    out = CutMix().mix(flat(0, space=LAYERS), others(1, space=LAYERS), rng)
    np.testing.assert_array_equal(out.target.labels[..., 1], out.image[..., 0])
    with pytest.raises(UserError, match="same classes"):
        CutMix().mix(flat(0), others(1, space=LabelSpace(("x", "y"))), rng)
    with pytest.raises(UserError, match=r"'s0' \(40, 60, 3\) uint8 and 's1' \(8, 9, 3\)"):
        CutMix().mix(flat(0), others(1, size=(8, 9)), rng)
    with pytest.raises(UserError, match="no mask"):
        CutMix().mix(flat(0), lambda: Sample(flat(0).image), rng)
    with pytest.raises(
        UserError, match="Mixing knows targets of the type SemanticMap, Instances, Panoptic, found Boxes"
    ):
        CutMix().mix(Sample(flat(0).image, Boxes()), others(1), rng)


class Boxes:
    size = (40, 60)
    box = 3


def test_a_type_of_target_joins_by_its_row(monkeypatch):
    warp = Warp.identity((40, 60))
    with pytest.raises(UserError, match="knows targets of the type SemanticMap, Instances, Panoptic, found Boxes"):
        warp_target(Boxes(), warp)
    monkeypatch.setitem(WARPED, Boxes, lambda target, warp: flat(target.box, size=warp.size).target)
    out = Pipeline((HorizontalFlip(),), (), (20, 30))(Sample(flat(0).image, Boxes()), np.random.default_rng(0))
    assert (out.target.labels == 3).all()
    assert out.target.size == (20, 30)


def test_a_pipeline_mixes_after_its_geometry_by_the_seed_alone():
    pipeline = Pipeline((RandomCrop(),), (), (24, 24), mixing=(CutMix(probability=1.0), Mosaic(probability=0.5)))

    def run(seed):
        rng = np.random.default_rng(seed)
        return pipeline(flat(0), rng, other=lambda: flat(int(rng.integers(1, 8)), size=(30, 50)))

    first, again, other = run([0, 1]), run([0, 1]), run([0, 2])
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.image[..., 0], first.target.labels)
    assert (first.image != other.image).any()
    assert len(np.unique(first.target.labels)) > 1
    image, target = pipeline.prepare(
        flat(0),
        np.random.default_rng(3),
        mean=[0.5] * 3,
        deviation=[0.2] * 3,
        maximum=255.0,
        other=others(*range(1, 8)),
    )
    same = pipeline(flat(0), np.random.default_rng(3), other=others(*range(1, 8)))
    np.testing.assert_allclose(image, normalise(same.image, [0.5] * 3, [0.2] * 3, maximum=255.0), atol=1e-5)
    np.testing.assert_array_equal(target.labels, same.target.labels)
    with pytest.raises(UserError, match="cut_mix needs other samples"):
        pipeline(flat(0), np.random.default_rng(0))


@pytest.mark.parametrize("build", [lambda: CutMix(area=(0.0, 0.5)), lambda: Mosaic(centre=(0.5, 1.0))])
def test_ranges_are_checked(build):
    with pytest.raises(UserError, match="the lower first"):
        build()
    assert from_plain(MixingOperation, to_plain(Mosaic(probability=0.2))) == Mosaic(probability=0.2)


def test_operations_by_name():
    named = ["horizontal_flip", {"elastic": {"strength": 0.1}}, {"random_crop": None}]
    assert operations("geometric", named, "x") == (HorizontalFlip(), Elastic(strength=0.1), RandomCrop())
    assert operations("photometric", [{"gamma": {"gamma": [0.5, 2]}}], "x") == (Gamma((0.5, 2.0)),)
    for kind, table in OPERATIONS.items():
        for name, operation in table.items():
            assert operations(kind, [name], "x") == (operation(),)
            assert operation().name == name


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("elastc", r"g\[0\]: there is no geometric operation 'elastc'. Did you mean 'elastic'"),
        ("gamma", "It belongs to 'photometric'"),
        ({"elastic": {"strenth": 1}}, r"no field 'g\[0\].elastic.strenth'. Did you mean 'strength'"),
        ({"elastic": {"strength": "much"}}, r"g\[0\].elastic.strength: expected a number"),
        ({"elastic": {}, "fit": {}}, r"found 2 names \(elastic, fit\)"),
        ({"elastic": {"probability": 30}}, "expected 0 to 1, found 30"),
    ],
)
def test_operations_that_are_not_understood(named, sentence):
    with pytest.raises(UserError, match=sentence):
        operations("geometric", [named], "g")


def test_an_operation_of_ones_own_need_not_know_of_a_focus():
    class Own:
        name, probability = "own", 1.0

        def mix(self, sample, other, rng):
            return other()

    pipeline = Pipeline((), (), (6, 6), mixing=(Own(),))
    given, taken = (Sample(np.full((6, 6, 3), value, np.uint8)) for value in (1, 2))
    assert (pipeline(given, np.random.default_rng(0), other=lambda: taken).image == 2).all()
