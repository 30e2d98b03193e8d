"""Deterministic splits: by a hash of the name, with exact counts."""

from collections.abc import Iterable
from hashlib import blake2b

from nuriwake.data.texts import composed


def split_names(
    names: Iterable[str], *, val_share: float = 0.2, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, val), each sorted: the `round(val_share * n)` names with the lowest hash of (seed, name) are val.

    The order of `names` does not matter, nor whether they are composed or decomposed (see `composed`); no random generator is
    involved, and adding names moves few others. With two
    names or more and a share strictly between 0 and 1 neither part is empty.

    Raises:
        ValueError: `val_share` outside 0..1, or repeated names.
    """
    known = sorted(names)
    if not 0 <= val_share <= 1:
        raise ValueError(f"val_share lies in 0..1, found {val_share}")
    if len(set(known)) != len(known):
        raise ValueError("names must be unique to be split")
    count = round(val_share * len(known))
    if 0 < val_share < 1 and len(known) > 1:
        count = min(max(count, 1), len(known) - 1)
    ranked = sorted(known, key=lambda name: (_rank(name, seed), name))
    chosen = frozenset(ranked[:count])
    return tuple(n for n in known if n not in chosen), tuple(n for n in known if n in chosen)


def _rank(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{composed(name)}".encode(), digest_size=8).digest()
