"""What is known of the data before anything is chosen."""

from pathlib import Path

from nuriwake.data.nifti_address import SliceAddress
from nuriwake.engine.facts import exposure_ratio


def test_slices_of_one_volume_count_as_one_image():
    levels = [(0.0, 10.0), (-5.0, 100.0), (0.0, 100.0), (0.0, 105.0)]
    slices = [SliceAddress(Path(f"scan{i // 2}.nii.gz"), 2, i % 2).path for i in range(4)]
    assert exposure_ratio(slices, levels, 1.0) == 1.0  # both volumes reach over 105
    pictures = [Path(f"{i}.png") for i in range(4)]
    assert exposure_ratio(pictures, levels, 1.0) > 2.5


def test_a_range_is_never_nothing():
    assert exposure_ratio([Path("a.png"), Path("b.png")], [(3.0, 3.0), (0.0, 2.0)], 2.0) == 1.0
