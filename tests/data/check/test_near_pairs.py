"""Nearly the same images: the search by parts of hashes gives what comparing everything with everything gives."""

from pathlib import Path

import numpy as np
import pytest

from nuriwake.data.check import splits
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.splits import NEAR, near_pairs


def facts(hashes: np.ndarray) -> list[Facts]:
    return [Facts(str(number), "train", Path(str(number)), hash=row) for number, row in enumerate(hashes)]


def twin(train: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """The first of the nearest, one by one."""
    found = []
    for j, other in enumerate(others):
        bits = np.bitwise_count(train ^ other).sum(axis=1)
        if bits.min() <= NEAR:
            found.append((int(bits.argmin()), j))
    return found


def flip(row: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    bits = np.unpackbits(row.view(np.uint8))
    bits[rng.choice(256, count, replace=False)] ^= 1
    return np.packbits(bits).view(np.uint64)


@pytest.mark.parametrize("alike", [0.5, 0.03, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_beside_the_twin(seed, alike, monkeypatch):
    """`alike`: the share of bits in which hashes differ from one of them; little makes most of them neighbours."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2, 256).astype(np.uint8)
    rows = np.packbits(base ^ (rng.random((90, 256)) < alike), axis=1).view(np.uint64)
    near = [
        flip(rows[rng.integers(60)], count, rng)
        for count in (0, 1, 5, NEAR - 1, NEAR, NEAR, NEAR + 1, 30)
        for _ in range(3)
    ]
    train, others = rows[:60], np.concatenate([rows[60:], np.stack(near)])
    expected = twin(train, others)
    assert len(expected) >= 15
    assert near_pairs(facts(train), facts(others)) == expected
    monkeypatch.setattr(splits, "_BLOCK", 7)
    assert near_pairs(facts(train), facts(others)) == expected


def test_nothing_to_compare():
    rows = facts(np.zeros((2, 4), np.uint64))
    assert near_pairs([], rows) == near_pairs(rows, []) == []


def test_many_are_compared_with_few(monkeypatch):
    """Of 20,000 times 5,000 pairs hardly any are looked at."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 2**63, (20_000, 4)).astype(np.uint64)
    others = rng.integers(0, 2**63, (5_000, 4)).astype(np.uint64)
    for j in range(0, 5_000, 50):
        others[j] = flip(train[j * 3], j // 50 % 12, rng)
    looked = []
    before = splits._keep_nearest
    monkeypatch.setattr(splits, "_keep_nearest", lambda *rest: (looked.append(len(rest[4])), before(*rest)))
    found = near_pairs(facts(train), facts(others))
    assert found == [(j * 3, j) for j in range(0, 5_000, 50) if j // 50 % 12 <= NEAR]
    assert sum(looked) < 10_000
