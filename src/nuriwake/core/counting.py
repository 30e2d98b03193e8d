"""How often each value stands in a map, of any size, without copies of the map."""

import numpy as np

_BAND = 1 << 20


def value_counts(values: np.ndarray) -> np.ndarray:
    """How often each value stands in `values` (uint8 or uint16, any shape): int64 (256,) or (65536,)."""
    counts = np.zeros(np.iinfo(values.dtype).max + 1, np.int64)
    if not values.size:
        return counts
    # bincount copies what it counts to int64, eight times the memory of a map of 8 bits: so by bands of rows.
    rows = max(1, _BAND * len(values) // values.size)
    for top in range(0, len(values), rows):
        counts += np.bincount(values[top : top + rows].ravel(), minlength=len(counts))
    return counts
