"""A decoded target as bytes, with what they were decoded from and a checksum: one entry of the cache of masks.

    magic 4s, CRC-32 of all that follows, version B, kind B, form B, flags B, state 16s, height I, width I, reserved I; little end first

then the arrays of the kind one after the other, each its number of bytes (Q) and itself, filled up to a multiple of 8 bytes.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks, run_offsets
from nuriwake.core.size import Size
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data.mask_form import CodedMap, Form, decode_map, encode_map, read_lengths, write_lengths

VERSION = 1
"""Of the layout; entries of another one are not read."""

_MAGIC = b"nwm\n"
_HEAD = struct.Struct("<4sIBBBB16sIII")
_CHECKED = 8
_STATED = 1


class _Parts(NamedTuple):
    form: int
    flags: int
    arrays: Sequence[np.ndarray]


class _Kind(NamedTuple):
    number: int
    pack: Callable[[Any], _Parts]
    unpack: Callable[[_Parts, Size, LabelSpace], Target]


def pack_target(target: Target, state: bytes) -> bytes:
    """The entry of `target`, a truth without scores; `state` (16 bytes) stands for what it was decoded from."""
    kind = _KINDS[type(target)]
    form, flags, arrays = kind.pack(target)
    parts: list[bytes] = []
    for array in arrays:
        data = np.ascontiguousarray(array).tobytes()
        parts += [struct.pack("<Q", len(data)), data, bytes(-len(data) % 8)]
    head = _HEAD.pack(_MAGIC, 0, VERSION, kind.number, form, flags, state, *target.size, 0)
    rest = b"".join([head[_CHECKED:], *parts])
    return _MAGIC + struct.pack("<I", crc32(rest)) + rest


def unpack_target(data: np.ndarray, state: bytes, space: LabelSpace) -> Target | None:
    """The target in `data` uint8; None when it was decoded from something else than `state` says.

    Raises:
        ValueError: the bytes are damaged, or of another version.
    """
    if data.size < _HEAD.size:
        raise ValueError("shorter than its header")
    magic, checksum, version, number, form, flags, found, height, width, _ = _HEAD.unpack_from(data.data)
    if (magic, version) != (_MAGIC, VERSION):
        raise ValueError("no entry of this version")
    if found != state:
        return None
    if crc32(data.data[_CHECKED:]) != checksum:
        raise ValueError("the checksum is another one")
    kind = next((kind for kind in _KINDS.values() if kind.number == number), None)
    if kind is None:
        raise ValueError("an unknown kind of target")
    try:
        return kind.unpack(_Parts(form, flags, _arrays(data)), (height, width), space)
    except (IndexError, TypeError, OverflowError, struct.error) as error:
        raise ValueError("the arrays are not those of a target") from error


def _arrays(data: np.ndarray) -> list[np.ndarray]:
    out: list[np.ndarray] = []
    place = _HEAD.size
    while place < data.size:
        (length,) = struct.unpack_from("<Q", data.data, place)
        out.append(data[place + 8 : place + 8 + length])
        place += 8 + -(-length // 8) * 8
    return out


def _pack_semantic(target: SemanticMap) -> _Parts:
    labels = target.labels
    form, table, data = encode_map(labels.reshape(labels.shape[0] * labels.shape[1], -1))
    return _Parts(form, 0, (table, data))


def _unpack_semantic(parts: _Parts, size: Size, space: LabelSpace) -> SemanticMap:
    table, data = parts.arrays
    channels = 1 if space.exclusive else len(space)
    flat = decode_map(CodedMap(Form(parts.form), table.reshape(-1, channels), data), size[0] * size[1])
    return SemanticMap(flat.reshape(size if space.exclusive else (*size, channels)), space)


def _pack_panoptic(target: Panoptic) -> _Parts:
    form, table, data = encode_map(target.ids.reshape(-1, 1))
    return _Parts(form, 0, (table, data, target.segment_ids, target.labels, target.crowd))


def _unpack_panoptic(parts: _Parts, size: Size, space: LabelSpace) -> Panoptic:
    table, data, segment_ids, labels, crowd = parts.arrays
    coded = CodedMap(Form(parts.form), table.view(np.int32).reshape(-1, 1), data)
    ids = decode_map(coded, size[0] * size[1]).reshape(size)
    return Panoptic(ids, segment_ids.view(np.int32), labels.view(np.int32), space, crowd=crowd.view(np.bool_))


def _pack_instances(target: Instances) -> _Parts:
    masks = target.masks
    columns = (target.labels, target.boxes, target.crowd, target.areas)
    stated = () if target.ids is None else (target.ids,)
    lengths = write_lengths(masks.counts)
    return _Parts(0, _STATED * len(stated), (np.diff(masks.offsets).astype(np.uint32), lengths, *columns, *stated))


def _unpack_instances(parts: _Parts, size: Size, space: LabelSpace) -> Instances:
    each, lengths, labels, boxes, crowd, areas, *ids = parts.arrays
    offsets = run_offsets(each.view(np.uint32))
    if offsets[-1] > lengths.size:  # each takes a byte at least
        raise ValueError("more runs than bytes")
    counts = np.empty(offsets[-1], np.uint32)
    if not read_lengths(lengths, counts):
        raise ValueError("the run lengths are damaged")
    return Instances(
        RunMasks(counts, offsets, size),
        labels.view(np.int32),
        space,
        boxes=boxes.view(np.float32).reshape(-1, 4),
        crowd=crowd.view(np.bool_),
        areas=areas.view(np.float64),
        ids=ids[0].view(np.int64) if parts.flags & _STATED else None,
    )


_KINDS: Mapping[type[Target], _Kind] = {
    SemanticMap: _Kind(1, _pack_semantic, _unpack_semantic),
    Instances: _Kind(2, _pack_instances, _unpack_instances),
    Panoptic: _Kind(3, _pack_panoptic, _unpack_panoptic),
}
