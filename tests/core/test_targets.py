"""Label maps: what they refuse."""

import cv2
import numpy as np
import pytest

from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap, label_files, unknown_labels


@pytest.mark.parametrize("names", [("a/b", "a_b"), (".a", "a"), ("Cell", "cell"), ("a", "A", "0_a")])
def test_every_layer_has_a_file_of_its_own(tmp_path, names):
    space = LabelSpace(names, exclusive=False)
    files = label_files(tmp_path / "x.png", space)
    assert len({str(file).casefold() for file in files}) == len(names)
    assert all(file.parent.parent == tmp_path for file in files)
    labels = (np.arange(len(names)) == 1).astype(np.uint8)[None, None].repeat(3, 0).repeat(4, 1)
    SemanticMap(labels, space).save(tmp_path / "x.png")
    assert [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE).max() > 0 for file in files] == [
        index == 1 for index in range(len(names))
    ]


def test_unknown_labels_of_a_large_map_are_found_in_every_band():
    labels = np.zeros((1100, 1000), np.uint8)
    labels[0, 0], labels[1099, 999], labels[5] = 9, 7, 255
    assert unknown_labels(labels, 3) == [7, 9]
    assert unknown_labels(labels[::-1, ::2].T, 8) == [9]
