"""Label maps: what they refuse."""

import numpy as np

from nuriwake.core.targets import unknown_labels


def test_unknown_labels_of_a_large_map_are_found_in_every_band():
    labels = np.zeros((1100, 1000), np.uint8)
    labels[0, 0], labels[1099, 999], labels[5] = 9, 7, 255
    assert unknown_labels(labels, 3) == [7, 9]
    assert unknown_labels(labels[::-1, ::2].T, 8) == [9]
