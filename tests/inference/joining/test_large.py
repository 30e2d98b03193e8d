"""A large image with many objects: what is held is the run lengths, and the answer is the truth."""

import tracemalloc

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.inference.joining.joining import join_tiles
from nuriwake.inference.joining.layout import lay_out
from nuriwake.inference.tiling import plan_tiles

SPACE = LabelSpace(("cell",), (True,))
SIZE = (4000, 6000)


def many_cells(count):
    """Octagons on a grid, larger ones than the overlap among them."""
    random = np.random.default_rng(0)
    angles = np.arange(8) * np.pi / 4
    polygons = []
    for index in range(count):
        x, y = 75 + 150 * (index % 40), 80 + 156 * (index // 40)
        radius = random.uniform(3, 74, 8) if index else np.full(8, 700)
        polygons.append([np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).reshape(-1)])
    masks = RunMasks.from_polygons(polygons, SIZE)
    return Instances(masks, np.zeros(count, np.int32), SPACE, scores=np.linspace(1, 0.5, count, dtype=np.float32))


def as_set(masks):
    return sorted(str(item["counts"]) for item in masks.window(0, 0, masks.size).to_coco())


def test_a_thousand_objects_of_24_megapixels_take_tens_of_megabytes():
    truth = many_cells(1000)
    layout = lay_out(plan_tiles(SIZE, tile=1024, overlap=0.25, fit=None, align=1))
    assert len(layout) == 40

    def answers():
        for tile, (left, top, _, _) in enumerate(layout.windows.tolist()):
            masks = truth.masks.window(top, left, layout.shape(tile))
            there = np.flatnonzero(masks.areas())
            yield Instances(masks[there], truth.labels[there], SPACE, scores=truth.scores[there])

    tracemalloc.start()
    found = join_tiles(answers(), layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20
    assert as_set(found.masks) == as_set(truth.masks)
    assert len(found) == 1000
