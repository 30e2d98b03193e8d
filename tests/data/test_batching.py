"""Batches: the same with any number of workers, and errors that keep their own sentence."""

import multiprocessing
import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nuriwake.core.errors import RunError, UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.sample import Sample
from nuriwake.core.targets import SemanticMap
from nuriwake.data.batching import CachedRead, DrawDataset, make_loader
from nuriwake.data.images import read_image
from nuriwake.data.parallel import forking
from nuriwake.data.samplers import Draw, EpochSampler

BINARY = LabelSpace(("background", "cell"))


@dataclass(frozen=True)
class Shapes:
    """Sample i is filled with i; `broken` has no readable file, `other` another size."""

    broken: int = -1
    other: int = -1
    folder: Path = Path()

    def __call__(self, index: int) -> Sample:
        if index == self.broken:
            read_image(self.folder / "broken.png")
        size = (6, 9) if index == self.other else (6, 8)
        labels = np.full(size, index % 2, np.uint8)
        return Sample(np.full((*size, 3), index, np.uint8), SemanticMap(labels, BINARY), name=f"s{index}")


@dataclass
class Order:
    """The draws of the epoch it is set to."""

    sampler: EpochSampler
    epoch: int = 0
    start: int = 0

    def set_epoch(self, epoch, start=0):
        self.epoch, self.start = epoch, start

    def __iter__(self):
        return self.sampler.draws(self.epoch, start=self.start)


def stack(targets):
    if None in targets:
        raise UserError("a label map is needed for every image, and one has none.")
    return torch.from_numpy(np.stack([target.labels for target in targets])).long()


def prepare(sample, rng, *, focus, other):
    image = sample.image.transpose(2, 0, 1).astype(np.float32) + np.float32(rng.random())
    return image, sample.target


def loader(read, *, workers=0, count=10, batch_size=4, **rest):
    dataset = DrawDataset(read, prepare, seed=7, count=count)
    order = Order(EpochSampler(count, seed=1))
    return make_loader(dataset, order, batch_size=batch_size, view=stack, workers=workers, **rest), order


def epochs(workers, **rest):
    batches, sampler = loader(Shapes(), workers=workers, **rest)
    result = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        result += [(batch.names, batch.images, batch.targets) for batch in batches]
    return result


def test_batches_do_not_depend_on_the_workers():
    alone, together = epochs(0), epochs(2)
    assert len(alone) == len(together) == 6
    for (names, images, targets), (other_names, other_images, other_targets) in zip(alone, together, strict=True):
        assert names == other_names
        assert torch.equal(images, other_images)
        assert torch.equal(targets, other_targets)
    names, images, targets = alone[0]
    assert images.shape == (4, 3, 6, 8)
    assert images.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert [int(name[1:]) for name in names] == images[:, 0, 0, 0].floor().int().tolist()
    assert not torch.equal(alone[0][1] % 1, alone[3][1] % 1)  # another epoch augments anew


def test_the_first_sample_is_not_augmented_by_the_order_of_its_epoch():
    def permuted(sample, rng, *, focus, other):
        return rng.permutation(12).astype(np.float32), None

    for epoch in range(4):
        order = [draw.index for draw in EpochSampler(12, seed=7).draws(epoch)]
        data = DrawDataset(Shapes(), permuted, seed=7, count=12)
        drawn = [data.item(Draw(epoch, position, 0)).image.tolist() for position in range(12)]
        assert order not in drawn
        assert len({tuple(row) for row in drawn}) == 12


def test_a_resume_in_the_middle_gives_the_same_rest():
    whole, sampler = loader(Shapes())
    expected = [batch.images for batch in whole][1:]
    sampler.set_epoch(0, 4)
    for one, other in zip(expected, [batch.images for batch in whole], strict=True):
        assert torch.equal(one, other)


def test_drop_last():
    assert [batch.images.shape for batch in loader(Shapes(), drop_last=True)[0]] == [(4, 3, 6, 8)] * 2


def test_the_focus_and_the_other_samples_follow_from_the_draw():
    seen = []

    def watch(sample, rng, *, focus, other):
        seen.append((focus, [other().name for _ in range(20)]))
        return np.zeros((3, 1, 1), np.float32), sample.target

    dataset = DrawDataset(Shapes(), watch, seed=7, count=5)
    for draw in (Draw(0, 3, 1, focus=1), Draw(0, 3, 1, focus=1), Draw(0, 4, 1), Draw(1, 3, 1, focus=1)):
        dataset.item(draw)
    assert seen[0] == seen[1]
    assert seen[0] != seen[3]
    assert seen[2][0] is None
    assert 0 <= seen[0][0][0] < 6
    assert 0 <= seen[0][0][1] < 8
    assert set(seen[0][1]) <= {f"s{index}" for index in range(5)}
    assert len(set(seen[0][1])) > 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_error_keeps_its_sentence(tmp_path, workers):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    batches, sampler = loader(Shapes(broken=5, folder=tmp_path), workers=workers)
    for epoch in range(2):  # the loader lives on after an error
        sampler.set_epoch(epoch)
        with pytest.raises(UserError) as caught:
            list(batches)
        assert str(caught.value).startswith(f"{tmp_path / 'broken.png'}: this is no image")
        assert "Traceback" not in str(caught.value)


def test_images_of_different_sizes_are_named():
    batches, _ = loader(Shapes(other=3))
    with pytest.raises(UserError, match=r"one size: 's\d' is \(3, 6, \d\).*but 's\d'"):
        list(batches)


@pytest.mark.parametrize("words", ["(pid 7) is killed by signal: Killed.", "(pid(s) 7) exited unexpectedly"])
def test_a_killed_worker_is_explained(monkeypatch, words):
    # torch raises out of a signal handler, at any moment; a real kill would now and then hit the test runner instead.
    def dies(self):
        raise RuntimeError(f"DataLoader worker {words}")

    batches, _ = loader(Shapes())
    monkeypatch.setattr(DataLoader, "__iter__", dies)
    with pytest.raises(RunError, match="fewer workers"):
        list(batches)


def test_an_image_without_a_mask_is_named():
    dataset = DrawDataset(
        Shapes(), lambda sample, rng, **rest: (prepare(sample, rng, **rest)[0], None), seed=0, count=2
    )
    batches = make_loader(dataset, [Draw(0, 0, 0), Draw(0, 1, 1)], batch_size=2, view=stack)
    with pytest.raises(UserError, match="s0, s1: a label map is needed"):
        list(batches)


def test_the_cache_is_bounded_and_sent_empty():
    calls = []

    def read(index):
        calls.append(index)
        return Shapes()(index)

    size = 6 * 8 * 3 + 6 * 8
    cached = CachedRead(read, 2 * size + 10)
    for _ in range(2):
        for index in range(3):
            assert cached(index).name == f"s{index}"
    assert calls == [0, 1, 2, 2]  # two samples fit, the third is read again
    full = CachedRead(Shapes(), 10**6)
    full(0)
    assert pickle.loads(pickle.dumps(full))._kept == {}


def test_forked_processes_may_use_opencv_whatever_the_parent_did():
    """The parent's pool of OpenCV threads does not survive a fork; in a child that has it, `setNumThreads` waits for ever."""
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000))  # starts the pool
        with forking():
            child = multiprocessing.get_context("fork").Process(target=cv2.setNumThreads, args=(2,))
            child.start()
        assert cv2.getNumThreads() == 4
        child.join(20)
        assert child.exitcode == 0
    finally:
        child.kill()
        cv2.setNumThreads(threads)
