"""Targets as tensors of truth."""

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.runs import RunMasks
from nuriwake.losses.truth import stack_instances
from nuriwake.models.truth import object_masks


def test_more_objects_than_16_bits_count_keep_their_masks():
    count, side = 40_000, 200
    top, left = np.divmod(np.arange(count), side)
    boxes = np.stack([left, top, left + 1, top + 1], axis=1).astype(np.float64)
    masks = RunMasks.from_boxes(boxes, (side, side))
    (truth,) = stack_instances([Instances(masks, np.zeros(count, np.int32), LabelSpace(("grain",), (True,)))])
    assert int(truth.layers.min()) == 1
    assert int(truth.layers.max()) == count
    last = object_masks(truth, truth.layer.new_tensor([count - 1]))[0].nonzero().tolist()
    assert last == [[199, 199]]
    few = Instances(masks[:5], np.zeros(5, np.int32), LabelSpace(("grain",), (True,)))
    assert str(stack_instances([few])[0].layers.dtype) == "torch.int16"
