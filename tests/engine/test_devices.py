"""Training, evaluation and prediction keep their tensors on one device: every family, without a GPU.

`PretendGpu` sees every operation of PyTorch. What is moved to "cuda" stays in memory and is remembered as being there; an
operation that would fail on a GPU because its tensors are in two places, or because NumPy cannot look into a GPU, fails here.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from nuriwake.core.instances import Instances
from nuriwake.core.labels import LabelSpace
from nuriwake.core.panoptic import Panoptic
from nuriwake.core.runs import RunMasks
from nuriwake.core.targets import SemanticMap, Target
from nuriwake.engine.config import OptimConfig
from nuriwake.engine.ema import Average
from nuriwake.engine.network import Step
from nuriwake.engine.optim import build_optimiser
from nuriwake.engine.step import clip, to_device
from nuriwake.engine.watch import Watch
from nuriwake.inference.decoding import output_type
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import PredictSettings
from nuriwake.losses.criterion import sum_terms
from nuriwake.models import build_model, resolve_model
from nuriwake.models.catalogue import entry_constructor
from nuriwake.models.outputs import PixelLogits, QueryOutput
from nuriwake.tasks import LossSettings, get_task

GPU = torch.device("cuda", 0)
ANYWHERE = {
    "copy_",
    "_has_compatible_shallow_copy_type",
    "__get__",
    "__set__",
    "tolist",
    "item",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__len__",
}
"""Operations whose tensors may be in two places, or that have one tensor only."""

SAME = 0
NUMPY = {"numpy", "__array__"}


class PretendGpu(TorchFunctionMode):
    """See above. `count`: operations on the GPU so far."""

    def __init__(self) -> None:
        super().__init__()
        # Weak references keep the addresses from being used again.
        self._there: dict[int, StorageWeakRef] = {}
        self.count = 0

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        # What a deep copy is given besides is the memory of all that was copied before.
        given = args[:1] if name == "__deepcopy__" else (args, kwargs)
        tensors = [item for item in tree_flatten(given)[0] if isinstance(item, torch.Tensor)]
        there = any(self.holds(item) for item in tensors)
        field = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__" and field in ("device", "is_cuda", "is_cpu"):
            place = GPU if there else torch.device("cpu")
            return place if field == "device" else place.type == field.removeprefix("is_")
        if name in NUMPY and there:
            raise AssertionError(f"{name} of a tensor on the GPU")
        self._check(name, args, tensors)
        wanted = self._wanted(name, args, kwargs)
        if wanted is None:
            result = func(*args, **kwargs)
        else:
            args = tuple("cpu" if _is_device(item) else item for item in args)
            if "device" in kwargs:
                kwargs["device"] = "cpu"
            result = args[0].clone() if name in ("cuda", "cpu") else func(*args, **kwargs)
        target = there if wanted is None else wanted == "cuda"
        if isinstance(result, torch.Tensor) and wanted is None and result is next(iter(args), None):  # in place
            target = self.holds(result)
        self.count += target
        if name == "__set__" and field in ("data", "grad"):
            self._mark(args[0], self.holds(args[1]) if isinstance(args[1], torch.Tensor) else there)
        return self._placed(result, there=target, moved=wanted is not None)

    def _placed(self, result: Any, *, there: bool, moved: bool) -> Any:
        if isinstance(result, torch.Tensor):
            if moved and self.holds(result) != there:
                result = result.clone()
            self._mark(result, there or (not moved and self.holds(result)))
        elif isinstance(result, list | tuple) and not isinstance(result, torch.Size):
            for item in result:
                self._placed(item, there=there, moved=False)
        return result

    def _mark(self, tensor: torch.Tensor, there: bool) -> None:
        storage = tensor.untyped_storage()
        if there:
            self._there[storage._cdata] = StorageWeakRef(storage)
        else:
            self._there.pop(storage._cdata, None)

    def _wanted(self, name: str, args: Any, kwargs: Any) -> str | None:
        """The device that is asked for: "cuda" or "cpu"; None where none is."""
        if name in ("cuda", "cpu"):
            return name
        given = kwargs.get("device")
        if name == "to":
            other = next((item for item in args[1:] if isinstance(item, torch.Tensor)), None)
            if other is not None:
                return "cuda" if self.holds(other) else "cpu"
            given = next((item for item in args[1:] if _is_device(item)), given)
        return None if given is None else torch.device(given).type

    def _check(self, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
        if name in ("__getitem__", "__setitem__"):
            # Indices may be in the memory of the CPU where the tensor is on the GPU.
            index = [item for item in tree_flatten(args[1])[0] if isinstance(item, torch.Tensor)]
            mixed = not self.holds(args[0]) and any(self.holds(item) for item in index)
            value = args[2] if name == "__setitem__" else None
            if isinstance(value, torch.Tensor) and value.ndim:
                mixed = mixed or self.holds(value) != self.holds(args[0])
        else:
            places = {self.holds(item) for item in tensors if item.ndim}
            places |= {True} if any(self.holds(item) for item in tensors) else set()
            mixed = len(places) == 2 and name not in ANYWHERE
        if mixed:
            where = [(tuple(item.shape), "cuda" if self.holds(item) else "cpu") for item in tensors]
            raise AssertionError(f"{name or 'an operation'} of tensors on two devices: {where}")


def _is_device(item: Any) -> bool:
    return isinstance(item, torch.device) or item in ("cuda", "cpu")


def test_the_pretended_gpu_refuses_what_a_gpu_does():
    cpu = torch.arange(4.0)
    with PretendGpu() as gpu:
        there = cpu.to(GPU)
        assert (there.device, cpu.device, (there + 1)[1:].device, there.cpu().device) == (
            GPU,
            cpu.device,
            GPU,
            cpu.device,
        )
        assert there.new_zeros(3).is_cuda
        assert torch.zeros(3, device=there.device).is_cuda
        assert not torch.from_numpy(np.zeros(3)).is_cuda
        assert (there * torch.tensor(2.0)).is_cuda  # numbers may come from anywhere
        assert there[torch.tensor([0, 1])].is_cuda
        assert torch.zeros(4).copy_(there).device == cpu.device
        for action in (
            lambda: there + cpu,
            lambda: torch.cat([there, cpu]),
            lambda: cpu[there > 1],
            lambda: there.__setitem__(slice(2), cpu[:2]),
            lambda: torch.where(there > 1, there, cpu),
            lambda: np.asarray(there),
            lambda: there.sum(0, keepdim=True).numpy(),
        ):
            with pytest.raises(AssertionError, match=r"on two devices|on the GPU"):
                action()
        weight = torch.ones(4, requires_grad=True)
        moved = weight.to(GPU)
        (moved * there).sum().backward()
        assert weight.grad.tolist() == cpu.tolist()
        assert gpu.count > 10


def scene(task: str) -> tuple[LabelSpace, Target]:
    """Two squares on ground, 64x64, as the task has them."""
    ids = np.zeros((64, 64), np.int32)
    ids[5:25, 8:30] = 1
    ids[30:50, 28:60] = 2
    if task == "semantic":
        space = LabelSpace(("ground", "square", "other"))
        return space, SemanticMap(ids.astype(np.uint8), space)
    numbers, labels = np.array([1, 2], np.int32), np.array([0, 1], np.int32)
    if task == "instance":
        space = LabelSpace(("square", "other"), (True, True))
        return space, Instances(RunMasks.from_labels(ids, numbers), labels, space)
    space = LabelSpace(("square", "other", "ground"), (True, True, False))
    ids[ids == 0] = 3
    return space, Panoptic(ids, np.array([1, 2, 3], np.int32), np.array([0, 1, 2], np.int32), space)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "task", "decoding"),
    [
        ("unet_mobilenet_v2", "semantic", {}),
        ("mask_rcnn_mobilenet_v2_fpn", "instance", {}),
        ("yolact_mobilenet_v2", "instance", {"score_threshold": 0.01, "detections": 5}),
        ("solov2_mobilenet_v2", "instance", {"candidate_threshold": 0.0, "score_threshold": 0.0, "detections": 5}),
        ("mask2former_mobilenet_v2", "instance", {"detections": 5}),
        ("mask2former_mobilenet_v2", "semantic", {}),
        ("eomt_small", "panoptic", {"score_threshold": 0.0, "overlap_threshold": 0.0}),
        ("panoptic_fpn_mobilenet_v2", "panoptic", {"score_threshold": 0.0}),
    ],
)
def test_every_family_keeps_its_tensors_on_one_device(small_options, name, task, decoding):
    """A step of training as `engine.step` takes it, and predictions of the averaged weights, in tiles and without."""
    (space, target), row = scene(task), get_task(task)
    options = {**small_options[name], **({"things": [0, 1]} if "panoptic_fpn" in name else {})}
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    torch.manual_seed(0)
    with PretendGpu() as gpu:
        kind = output_type(entry_constructor(resolve_model(name)))
        model = build_model(name, in_channels=3, classes=row.channels(space, kind), options=options).to(GPU)
        terms_of = "cross_entropy+dice" if kind is PixelLogits else {}
        loss = LossSettings(terms_of, {"points": 200} if kind is QueryOutput else {})
        step = Step(model, row.criterion(model, space, loss).to(GPU)).train()
        optimiser, average = build_optimiser(model, OptimConfig(), GPU), Average(model, 0.9)
        model.set_progress(0.5)
        images = torch.randn(2, 3, 64, 64).to(GPU, memory_format=torch.channels_last)
        terms = step(images, to_device(row.stack([target, target]), GPU))
        sum_terms(terms).backward()
        watch = Watch(patience=1)
        watch.note(
            0,
            ("a", "b"),
            terms,
            sum_terms(terms) + clip(SimpleNamespace(model=model, config=SimpleNamespace(optim=OptimConfig()))),
        )
        assert watch.look() is None
        optimiser.step()
        average.update(0)
        for tile in (64, None):
            settings = PredictSettings(tile=tile, decoding=decoding)
            predictor = Predictor(
                average.module, space=space, preprocessing=Preprocessing(), task=task, settings=settings, device=GPU
            )
            before = gpu.count
            assert predictor(image).size == (80, 100)
            assert len(predictor.batch([image, image])) == 2
            assert gpu.count > before + 100
