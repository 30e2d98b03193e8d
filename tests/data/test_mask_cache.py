import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuriwake.core.errors import UserError
from nuriwake.core.instances import Instances
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.data import mask_cache
from nuriwake.data.dataset import DataSet, Record
from nuriwake.data.mask_cache import MaskCache, with_mask_cache
from nuriwake.data.mask_entry import pack_target, unpack_target

SPACE = LabelSpace(("road", "car", "tree"), (False, True, False))
SIZE = (37, 53)


def _semantic(seed: int = 0) -> SemanticMap:
    labels = np.random.default_rng(seed).choice(np.array([0, 1, 2, IGNORE], np.uint8), (6, 7))
    return SemanticMap(np.ascontiguousarray(np.kron(labels, np.ones((7, 8), np.uint8))[: SIZE[0], : SIZE[1]]), SPACE)


def _layers() -> SemanticMap:
    space = LabelSpace(("a", "b", "c"), exclusive=False)
    labels = np.random.default_rng(1).choice(np.array([0, 1, IGNORE], np.uint8), (*SIZE, 3))
    return SemanticMap(labels, space)


def _instances(count: int = 3, *, ids: bool = True) -> Instances:
    rng = np.random.default_rng(2)
    masks = np.zeros((count, *SIZE), np.uint8)
    for mask in masks:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 9, x : x + 11] = 1
    return Instances(
        RunMasks.from_dense(masks) if count else RunMasks.empty(SIZE),
        rng.integers(0, 3, count).astype(np.int32),
        SPACE,
        boxes=np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32),
        crowd=rng.random(count) < 0.5,
        areas=rng.random(count) * 100,
        ids=rng.integers(0, 2**40, count) if ids else None,
    )


def _panoptic() -> Panoptic:
    ids = np.zeros(SIZE, np.int32)
    ids[3:20, 5:40], ids[25:, :30] = 70_000, 9
    return Panoptic(
        ids, np.array([70_000, 9], np.int32), np.array([1, 0], np.int32), SPACE, crowd=np.array([True, False])
    )


TARGETS = {
    "semantic": _semantic(),
    "multi-label": _layers(),
    "instances": _instances(),
    "instances without numbers": _instances(ids=False),
    "no instances": _instances(0),
    "panoptic": _panoptic(),
}


def _same(a: Target | None, b: Target | None) -> bool:
    if isinstance(a, Instances) and isinstance(b, Instances):
        names = ("labels", "boxes", "crowd", "areas", "ids")
        pairs = [(getattr(a, name), getattr(b, name)) for name in names]
        pairs += [(a.masks.counts, b.masks.counts), (a.masks.offsets, b.masks.offsets), (a.size, b.size)]
    elif isinstance(a, Panoptic) and isinstance(b, Panoptic):
        pairs = [(getattr(a, name), getattr(b, name)) for name in ("ids", "segment_ids", "labels", "crowd")]
    elif isinstance(a, SemanticMap) and isinstance(b, SemanticMap):
        pairs = [(a.labels, b.labels)]
    else:
        return False
    equal = all(
        x is y is None or (np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype) for x, y in pairs
    )
    return equal and a.space == b.space


class CountingReader:
    """Gives `target`, or the mask that `record.target` is the file of; counts how often it is asked."""

    def __init__(self, target: Target | None = None) -> None:
        self.target, self.calls = target, 0

    def __call__(self, record: Record) -> Target | None:
        self.calls += 1
        if self.target is not None:
            return self.target
        if record.target is None:
            return None
        if not record.target.exists():
            raise UserError(f"{record.target}: cannot be read.")
        return SemanticMap(np.asarray(Image.open(record.target)), SPACE)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    root = tmp_path / "data"
    root.mkdir()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "a.jpg")
    Image.fromarray(_semantic().labels).save(root / "a.png")
    return Record("a", root / "a.jpg", root / "a.png")


def _data(record: Record, target: Target | None = None, space: LabelSpace | None = None) -> DataSet:
    return DataSet(
        record.image.parent,
        "mask_folder",
        space or (target.space if target else SPACE),
        {"train": (record,)},
        reader=CountingReader(target),
    )


def _calls(data: DataSet) -> int:
    assert isinstance(data.reader, CountingReader)
    return data.reader.calls


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.mask"))


def _again(data: DataSet, folder: Path, **settings) -> DataSet:
    """As another process would open it."""
    return with_mask_cache(replace(data, reader=CountingReader(data.reader.target)), folder, **settings)[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_comes_back_as_it_was_and_is_read_once(record, tmp_path, name):
    target = TARGETS[name]
    data, problem = with_mask_cache(_data(record, target), tmp_path / "cache")
    assert problem is None
    for _ in range(3):
        assert _same(data.read_target(record), target)
    assert _calls(data) == 1
    other = _again(data, tmp_path / "cache")
    assert _same(other.read_target(record), target)
    assert _calls(other) == 0
    assert other.read(record).target is not None


def test_the_cache_is_no_part_of_the_fingerprint(record, tmp_path):
    plain = _data(record)
    assert with_mask_cache(plain, tmp_path / "cache")[0].fingerprint() == plain.fingerprint()


def test_arrays_that_come_back_can_be_written(record, tmp_path):
    data, _ = with_mask_cache(_data(record), tmp_path / "cache")
    data.read_target(record)
    labels = data.read_target(record).labels  # type: ignore[union-attr]
    labels[0, 0] = 1
    assert labels.flags.c_contiguous


def test_a_changed_mask_is_read_again(record, tmp_path):
    data, _ = with_mask_cache(_data(record), tmp_path / "cache")
    before = record.target.stat()
    data.read_target(record)
    changed = _semantic(seed=5)
    Image.fromarray(changed.labels).save(record.target)
    # Times put back, and the same name: the moment at which this was done still tells.
    os.utime(record.target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _same(data.read_target(record), changed)
    assert _same(data.read_target(record), changed)
    assert _calls(data) == 2
    assert len(_entries(tmp_path / "cache")) == 1  # the outdated one was replaced


def test_another_image_another_task_another_way_to_decode_are_read_again(record, tmp_path, monkeypatch):
    data, _ = with_mask_cache(_data(record), tmp_path / "cache")
    data.read_target(record)
    os.utime(record.image, ns=(1, 1))  # some formats take the size from the image
    data.read_target(record)
    assert _calls(data) == 2
    task = _again(data, tmp_path / "cache", purpose="panoptic")
    task.read_target(record)
    assert _calls(task) == 1
    assert len(_entries(tmp_path / "cache")) == 2
    monkeypatch.setattr(mask_cache, "_code", lambda: ["a newer nuriwake"])
    newer = _again(data, tmp_path / "cache")
    newer.read_target(record)
    assert _calls(newer) == 1
    assert len(_entries(tmp_path / "cache")) == 2


def test_a_changed_annotation_file_is_read_again(record, tmp_path):
    source = tmp_path / "data" / "instances.json"
    source.write_text("{}")
    plain = replace(_data(record), sources=(source,))
    with_mask_cache(plain, tmp_path / "cache")[0].read_target(record)
    source.write_text("[]")
    again = _again(plain, tmp_path / "cache")
    again.read_target(record)
    assert _calls(again) == 1


@pytest.mark.parametrize("name", ["semantic", "instances", "panoptic"])
def test_a_damaged_entry_is_never_trusted(record, tmp_path, name):
    target = TARGETS[name]
    data, _ = with_mask_cache(_data(record, target), tmp_path / "cache")
    data.read_target(record)
    (entry,) = _entries(tmp_path / "cache")
    whole = entry.read_bytes()
    rng, damages = np.random.default_rng(0), [b"", whole[:10], whole[:-1], whole + bytes(8), bytes(len(whole))]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        damages.append(bytes(flipped))
    for damage in damages:
        entry.write_bytes(damage)
        calls = _calls(data)
        assert _same(data.read_target(record), target)
        assert _calls(data) == calls + 1
        assert entry.read_bytes() == whole


@pytest.mark.parametrize("name", TARGETS)
def test_forged_entries_are_refused_and_nothing_else_is_touched(name):
    """Bytes that fit their checksum and make no target: an error, never a crash or a wrong mask of another size."""
    from zlib import crc32

    target, rng = TARGETS[name], np.random.default_rng(3)
    whole = bytearray(pack_target(target, bytes(16)))
    for _ in range(300):
        forged = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            forged[int(rng.integers(9, len(forged)))] = int(rng.integers(256))
        forged[4:8] = crc32(bytes(forged[8:])).to_bytes(4, "little")
        if int.from_bytes(forged[28:32], "little") * int.from_bytes(forged[32:36], "little") > 1e7:
            continue
        try:
            found = unpack_target(np.frombuffer(forged, np.uint8), bytes(forged[12:28]), target.space)
        except ValueError:
            continue
        assert found is not None
        assert found.size == (int.from_bytes(forged[28:32], "little"), int.from_bytes(forged[32:36], "little"))


def test_no_mask_and_foreign_classes_are_not_kept(record, tmp_path):
    none, _ = with_mask_cache(_data(replace(record, target=None)), tmp_path / "cache")
    assert none.read_target(none.splits["train"][0]) is None
    other = _data(record, _semantic(), space=LabelSpace(("x", "y")))
    data, _ = with_mask_cache(other, tmp_path / "cache")
    assert _same(data.read_target(record), _semantic())
    assert _entries(tmp_path / "cache") == []


def test_a_missing_mask_is_the_readers_to_say(record, tmp_path):
    data, _ = with_mask_cache(_data(record), tmp_path / "cache")
    data.read_target(record)
    record.target.unlink()
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        data.read_target(record)


def test_a_folder_that_cannot_be_written_costs_only_time(record, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    data, problem = with_mask_cache(_data(record), tmp_path / "cache")
    assert problem is not None
    assert "cache: decoded masks cannot be kept here" in problem
    assert _same(data.read_target(record), _semantic())
    assert _same(data.read_target(record), _semantic())
    assert _calls(data) == 2


def test_a_read_only_folder_is_read(record, tmp_path, monkeypatch):
    with_mask_cache(_data(record), tmp_path / "cache")[0].read_target(record)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("touch", "write_bytes", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    data, problem = with_mask_cache(_data(record), tmp_path / "cache")
    assert problem is not None
    assert "(Permission denied); what is there already is used" in problem
    assert _same(data.read_target(record), _semantic())
    assert _calls(data) == 0
    os.utime(record.target, ns=(1, 1))
    assert _same(data.read_target(record), _semantic())
    assert _calls(data) == 1


def _many(folder: Path, name: str, count: int = 12) -> DataSet:
    root = folder / name
    root.mkdir()
    records: list[Record] = []
    for n in range(count):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / f"{n}.jpg")
        Image.fromarray(_semantic(n).labels).save(root / f"{n}.png")
        records.append(Record(str(n), root / f"{n}.jpg", root / f"{n}.png"))
    return DataSet(root, "mask_folder", SPACE, {"train": tuple(records)}, reader=CountingReader())


def _read_all(data: DataSet) -> None:
    for n, record in enumerate(data.records("train")):
        assert _same(data.read_target(record), _semantic(n))


def _taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_folder_never_grows_beyond_its_limit(tmp_path):
    plain, limit = _many(tmp_path, "one"), 4000
    data, _ = with_mask_cache(plain, tmp_path / "cache", limit=limit)
    _read_all(data)
    assert 0.7 * limit < _taken(tmp_path / "cache") <= limit
    kept = len(_entries(tmp_path / "cache"))
    assert 0 < kept < 12
    again = _again(plain, tmp_path / "cache", limit=limit)
    _read_all(again)
    assert _calls(again) == 12 - kept


def test_data_opened_longest_ago_make_room(tmp_path):
    first, second, third = (_many(tmp_path, name, 4) for name in ("first", "second", "third"))
    cache = tmp_path / "cache"
    opened = []
    for data in (first, second):
        opened.append(with_mask_cache(data, cache, limit=10_000)[0])
        _read_all(opened[-1])
    (cache / "precious.txt").write_text("not ours")
    used = _taken(cache) - len("not ours")
    newest = _again(third, cache, limit=used)
    _read_all(newest)
    assert _taken(cache) - len("not ours") <= used
    assert len(_entries(cache)) == 8
    back = _again(second, cache, limit=used)
    _read_all(back)
    assert _calls(back) == 0  # only the first had to go
    assert (cache / "precious.txt").is_file()
    oldest = opened[0].keeper
    assert isinstance(oldest, MaskCache)
    oldest.limit = used
    _read_all(opened[0])  # it was opened before the others: it may not push them out
    assert len(_entries(cache)) == 8


def test_what_a_killed_process_left_is_removed(tmp_path):
    data, _ = with_mask_cache(_many(tmp_path, "one", 2), tmp_path / "cache")
    _read_all(data)
    left = _entries(tmp_path / "cache")[0].with_name(".0123.part")
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    again = with_mask_cache(_many(tmp_path, "two", 1), tmp_path / "cache")[0]
    _read_all(again)
    assert not left.exists()


def _work(data: DataSet) -> int:
    for _ in range(5):
        _read_all(data)
    return _calls(data)


def test_several_processes_share_a_folder(tmp_path):
    data, _ = with_mask_cache(_many(tmp_path, "one"), tmp_path / "cache")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        calls = pool.map(_work, [data] * 4)
    assert all(count <= 12 for count in calls)
    assert len(_entries(tmp_path / "cache")) == 12
    assert not list((tmp_path / "cache").rglob("*.part"))
    _read_all(data)
    assert _calls(data) == 0


def test_it_can_be_sent_to_workers(record, tmp_path):
    data, _ = with_mask_cache(_data(record), tmp_path / "cache")
    assert _same(pickle.loads(pickle.dumps(data)).read_target(record), _semantic())
    assert len(_entries(tmp_path / "cache")) == 1
