"""Predictor: the one path from an image to a prediction, for validation, the command line, serving and export parity."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nuriwake.core.errors import UserError
from nuriwake.core.geometry import Geometry
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import Size, Target
from nuriwake.core.views import instance_space, semantic_space
from nuriwake.inference.augmentation import FLIPS, Flip, flip_array
from nuriwake.inference.decoding import (
    Pass,
    Request,
    Watch,
    decode,
    find_decoder,
    output_type,
    probability_strips,
    split_for_tiles,
)
from nuriwake.inference.joining.joining import join_tiles
from nuriwake.inference.joining.layout import Layout, lay_out
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import Grid, plan_grid, plan_tiles
from nuriwake.models.base import Model
from nuriwake.models.outputs import PixelLogits

Precision = Literal["float32", "bfloat16", "float16"]
_COLOURS = ("1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes that are seen as RGB by models of three channels."""

LEAST_OVERLAP = 8
"""Pixels that tiles must share for objects to be joined in them: two cells of a usual mask."""

ImageLike = np.ndarray | Image.Image | str | Path


@dataclass(eq=False)
class Predictor:
    """A model with all it takes to answer for an image as the user has it.

    Args:
        model: moved to `device`; put into eval mode for every answer and back into its own mode afterwards.
        space: the classes.
        preprocessing: what the model expects of an image.
        task: what is answered; with the type of the model's output it chooses the decoder.
        settings: tiles, test-time augmentation, thresholds, post-processing.
        device: a torch device.
        precision: of the network's arithmetic (autocast); the probabilities are float32.
        read: path -> (H, W, C), for images given as a path; None refuses paths.

    Raises:
        UserError: settings that do not fit the classes or the decoder, or a model whose output nothing decodes.

    Images longer than `settings.tile` are taken in tiles. Probabilities are blended where tiles overlap; answers that are
    lists (objects, segments) are found tile by tile, each seen like an image of its own, and joined (`joining`).
    """

    model: Model
    _: KW_ONLY
    space: LabelSpace
    preprocessing: Preprocessing
    task: str = "semantic"
    settings: PredictSettings = field(default_factory=PredictSettings)
    device: str | torch.device = "cpu"
    precision: Precision = "float32"
    read: Callable[[Path], np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.settings.check(self.space)
        self._kind = output_type(self.model)
        self._decoder = find_decoder(self.task, self._kind, self.settings.decoding, self.settings.score_threshold)
        if not self._decoder.blends:
            _check_unblended(self.settings)
        self._device = torch.device(self.device)
        self.model = self.model.to(self._device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def answers(self) -> LabelSpace:
        """The classes of the answers: `space`, or as much of it as the task tells apart (see `core.views`)."""
        seen = {"semantic": semantic_space, "instance": instance_space}.get(self.task)
        return self.space if seen is None else seen(self.space)

    def with_settings(self, settings: PredictSettings) -> "Predictor":
        """The same model with other settings; nothing is copied."""
        return replace(self, settings=settings)

    @torch.inference_mode()
    def __call__(self, image: ImageLike, *, watch: Watch | None = None) -> Target:
        """The prediction for one image, in the image's own pixels.

        Args:
            image: array (H, W) or (H, W, C), a Pillow image, or a path.
            watch: called with (first row, probabilities (C, rows, W)) for every strip on its way, so that thresholds can
                be counted in the same pass; valid during the call only. Whole images of usual size are one strip.

        Raises:
            UserError: the image does not suit the model; the message says what the model wants.
        """
        array = self._array(image)
        with _evaluating(self.model):
            if (grid := self._tiles((array.shape[0], array.shape[1]))) is not None:
                return self._joined(array, lay_out(grid))
            return decode(self._decoder, self._start(array), self._request(array, watch))

    @torch.inference_mode()
    def batch(
        self, images: Sequence[ImageLike], *, watch: Callable[[int, int, Tensor], None] | None = None
    ) -> list[Target]:
        """The predictions for `images`, in their order; those of one size share passes of the network.

        Args:
            watch: as in `__call__`, with the index of the image before the row.
        """
        arrays = [self._array(image) for image in images]
        answers: dict[int, Target] = {}
        with _evaluating(self.model):
            for indices in _groups(arrays, self.settings.batch_size):
                if (grid := self._tiles(arrays[indices[0]].shape[:2])) is not None:
                    answers |= {index: self._joined(arrays[index], lay_out(grid)) for index in indices}
                    continue
                started = self._start_together([arrays[index] for index in indices])
                for index, passes in zip(indices, started, strict=True):
                    look = None if watch is None else _bound(watch, index)
                    answers[index] = decode(self._decoder, passes, self._request(arrays[index], look))
        return [answers[index] for index in range(len(arrays))]

    @torch.inference_mode()
    def probabilities(self, image: ImageLike) -> np.ndarray:
        """float32 (C, H, W) at the image's size, C the model's channels (1 for a binary space). Nothing is thresholded.

        The whole volume is returned; for very large images and many classes use `__call__` with `watch`.
        """
        if self._kind is not PixelLogits:
            raise UserError(
                f"Probabilities per pixel need a model with logits per pixel; this one returns {self._kind.__name__}."
            )
        array = self._array(image)
        with _evaluating(self.model):
            request = self._request(array, None)
            volume: np.ndarray | None = None
            for top, strip in probability_strips(self._start(array), request):
                if volume is None:
                    volume = np.empty((strip.shape[0], *request.size), np.float32)
                volume[:, top : top + strip.shape[1]] = strip.cpu().numpy()
        assert volume is not None
        return volume

    def _array(self, image: ImageLike) -> np.ndarray:
        if isinstance(image, str | Path):
            if self.read is None:
                raise UserError(f"{image}: this predictor has no reader for files; give it an array or a Pillow image.")
            return self.preprocessing.checked(self.read(Path(image)), str(image))
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)  # upright, as the reader of files has it
            if self.preprocessing.channels == 3 and image.mode in _COLOURS:
                image = image.convert("RGB")
            elif self.preprocessing.channels == 1 and image.mode in ("P", "LA", "PA"):
                image = image.convert("L")
            image = np.asarray(image)
        return self.preprocessing.checked(image)

    def _tiles(self, size: Size) -> Grid | None:
        """The tiles of an image of `size` that are answered one by one; None where it is seen whole or tiles are blended."""
        settings, model = self.settings, self.model
        if self._decoder.blends or settings.tile_side is None or max(size) <= settings.tile_side:
            return None
        native = self.preprocessing.resize is None and settings.scales == (1.0,)
        return plan_tiles(
            size,
            tile=settings.tile_side,
            overlap=settings.overlap,
            fit=model.fit_size if native else None,
            align=model.input_multiple,
        )

    def _joined(self, array: np.ndarray, layout: Layout) -> Target:
        """The answer for the image, put together from those for its tiles."""
        seen, asked = self.preprocessing.for_image(array), deque[tuple[Size, Grid]]()
        decoder, finish = split_for_tiles(self._decoder)

        def inputs() -> Iterator[np.ndarray]:
            for left, top, right, bottom in layout.windows.tolist():
                shown = array[top:bottom, left:right]
                geometry = self._geometry(shown, self.settings.scales[0])
                grid = self._grid(geometry.size)
                asked.append(((bottom - top, right - left), grid))
                yield seen.window(geometry.apply(shown, interpolation=seen.interpolation), 0, 0, grid.input)

        def answers() -> Iterator[Target]:
            for item in self._outputs(inputs()):
                size, grid = asked.popleft()
                request = Request(size, self.task, self.space, self.settings)
                yield decode(decoder, [Pass(grid, ("none",), iter([item]))], request)

        return finish(join_tiles(answers(), layout))

    def _request(self, array: np.ndarray, watch: Watch | None) -> Request:
        return Request((array.shape[0], array.shape[1]), self.task, self.space, self.settings, watch)

    def _start(self, array: np.ndarray) -> list[Pass]:
        """The passes, which run as they are consumed."""
        flips, seen = FLIPS[self.settings.flips], self.preprocessing.for_image(array)
        passes: list[Pass] = []
        for scale in self.settings.scales:
            geometry = self._geometry(array, scale)
            grid = self._grid(geometry.size)
            scaled = geometry.apply(array, interpolation=self.preprocessing.interpolation)
            passes.append(Pass(grid, flips, self._outputs(self._inputs(scaled, grid, flips, seen))))
        return passes

    def _start_together(self, arrays: list[np.ndarray]) -> list[list[Pass]]:
        """As `_start` for images of one size; one pass of the network where one tile at one scale is all there is."""
        settings = self.settings
        geometry = self._geometry(arrays[0], settings.scales[0])
        grid = self._grid(geometry.size)
        single = len(settings.scales) == len(grid.tops) == len(grid.lefts) == 1 and settings.flips == "none"
        if len(arrays) == 1 or not single:
            return [self._start(array) for array in arrays]
        flips: tuple[Flip, ...] = ("none",)
        wanted = self.preprocessing
        scaled = ((geometry.apply(array, interpolation=wanted.interpolation), array) for array in arrays)
        inputs = chain.from_iterable(
            self._inputs(small, grid, flips, wanted.for_image(array)) for small, array in scaled
        )
        return [[Pass(grid, flips, iter([item]))] for item in self._outputs(inputs)]

    def _geometry(self, array: np.ndarray, scale: float) -> Geometry:
        geometry = self.preprocessing.geometry((array.shape[0], array.shape[1]))
        height, width = geometry.size
        return geometry.resize((max(1, round(height * scale)), max(1, round(width * scale))))

    def _grid(self, size: Size) -> Grid:
        settings, model = self.settings, self.model
        return plan_grid(
            size,
            tile=settings.tile_side if self._decoder.blends else None,
            overlap=settings.overlap,
            margin=model.margin,
            fit=model.fit_size,
            whole=model.fit_image,
            align=model.input_multiple,
        )

    def _inputs(
        self, scaled: np.ndarray, grid: Grid, flips: tuple[Flip, ...], preprocessing: Preprocessing
    ) -> Iterator[np.ndarray]:
        """float32 (C, *grid.input) for every tile and flip."""
        for top, left in grid.corners:
            tensor = preprocessing.window(scaled, top - grid.margin, left - grid.margin, grid.input)
            for flip in flips:
                yield flip_array(tensor, flip)

    def _outputs(self, inputs: Iterator[np.ndarray]) -> Iterator[tuple[Any, int]]:
        while chunk := list(islice(inputs, self.settings.batch_size)):
            output = self._forward(torch.from_numpy(np.stack(chunk)))
            for row in range(len(chunk)):
                yield output, row

    def _forward(self, images: Tensor) -> Any:
        images = images.to(self._device, memory_format=torch.channels_last)
        with self._autocast():
            return self.model(images)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self.precision))


def _check_unblended(settings: PredictSettings) -> None:
    """Raises UserError where `settings` ask for what answers that are lists do not take."""
    if settings.flips != "none" or len(settings.scales) > 1:
        raise UserError(
            "Answers of mirrored copies and of several scales are averaged, which takes probabilities for every pixel; this "
            f"model's answers are lists: expected flips none and one scale, found flips {settings.flips} and the scales "
            f"{', '.join(f'{scale:g}' for scale in settings.scales)}."
        )
    if settings.tile_side is not None and settings.tile_side * settings.overlap < LEAST_OVERLAP:
        raise UserError(
            "Objects are joined where tiles overlap, by at least "
            f"{LEAST_OVERLAP} pixels; found tiles of {settings.tile_side} that overlap by {settings.overlap:g} of it: raise "
            "settings.overlap, or set tile to 0."
        )


@contextmanager
def _evaluating(model: Model) -> Generator[None]:
    """Eval mode inside; afterwards every module has its own mode back (frozen normalisation stays frozen)."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _groups(arrays: Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    """Indices of neighbours in `arrays` with one shape, at most `batch_size` together."""
    group: list[int] = []
    for index, array in enumerate(arrays):
        if group and (len(group) == batch_size or arrays[group[0]].shape != array.shape):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _bound(watch: Callable[[int, int, Tensor], None], index: int) -> Watch:
    return lambda top, strip: watch(index, top, strip)
