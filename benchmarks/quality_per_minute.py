"""Score against time: `nuriwake.train` and a plain loop over segmentation_models_pytorch's U-Net, from the same weights.

    python benchmarks/quality_per_minute.py --data nuclei --minutes 10 [--root ../shared/data] [--out runs/quality] [--slice 30]

Both get the same images, the same split, the same pretrained MobileNetV2 file, the same minutes and all cores, and are judged
by the same metric on the same full-size validation images: camvid mIoU over 11 classes, nuclei data-set Dice of the
foreground, isbi2012 mIoU of both classes (its foreground is the larger class: calling everything foreground has a high Dice).
Our bundle's thresholds are tuned on these validation images, so ours is also judged at 0.5, which is what is compared. They run as two processes that take turns of `--slice` seconds: one is stopped (SIGSTOP) while the other
runs, so that noise on the machine hits both alike. A stopped process's clock stands still: its `time.perf_counter` has the
time spent stopped taken off, so a time budget means running time. `--slice 0` runs one after the other.

The plain loop: Adam 2e-4, smp's Dice loss, flips, 320-pixel crops, batch 8, fp32, all images decoded in memory before its
clock starts. Its evaluations (ten, evenly spaced) do not count against its minutes; ours do count against ours.
"""

import argparse
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from mmap import mmap
from pathlib import Path

WEIGHTS = "weights/mobilenet_v2-b0353104.pth"
METRIC = {"camvid": "mean_iou", "nuclei": "dice", "isbi2012": "mean_iou"}
TARGET = {"camvid": 0.70, "nuclei": 0.94}
MARKS, BATCH, CROP, RATE = 10, 8, 320, 2e-4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RunningClock:
    """Seconds spent stopped, written by the parent and read by the child through one mapped file of eight bytes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap(file.fileno(), 8)

    def add(self, seconds: float) -> None:
        self._map[:] = struct.pack("d", self.stopped + seconds)

    @property
    def stopped(self) -> float:
        return struct.unpack("d", self._map[:])[0]

    def install(self) -> None:
        """Make `time.perf_counter` of this process stand still while it is stopped. Call before anything is timed."""
        real = time.perf_counter
        time.perf_counter = lambda: real() - self.stopped


class Contender:
    """A child process in a session of its own, with the workers it starts, that can be stopped and continued."""

    def __init__(self, role: str, arguments: list[str], folder: Path) -> None:
        path = folder / f"clock-{role}"
        path.unlink(missing_ok=True)
        self.role, self.clock = role, RunningClock(path)
        command = [sys.executable, __file__, *arguments, "--role", role]
        self.process = subprocess.Popen(command, start_new_session=True)
        self._stopped_at: float | None = None

    def stop(self) -> None:
        if self.running:
            os.killpg(self.process.pid, signal.SIGSTOP)
            self._stopped_at = time.perf_counter()

    def go_on(self) -> None:
        if self.running and self._stopped_at is not None:
            self.clock.add(time.perf_counter() - self._stopped_at)
            self._stopped_at = None
            os.killpg(self.process.pid, signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        if self.running:
            os.killpg(self.process.pid, signal.SIGKILL)


def take_turns(contenders: list[Contender], seconds: float) -> None:
    """Let each run for `seconds` in turn (0: to its end) until all have ended. Raises when one fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the children would outlive a terminated parent
    try:
        for contender in contenders:
            contender.stop()
        while any(contender.running for contender in contenders):
            for contender in contenders:
                contender.go_on()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    contender.process.wait(seconds or None)
                contender.stop()
                if contender.process.returncode:
                    raise SystemExit(f"{contender.role} failed with exit code {contender.process.returncode}")
    finally:
        for contender in contenders:
            contender.end()


def describe(name: str, root: Path, folder: Path) -> Path:
    """A YAML file for `open_data`: sets without a split hold out every fifth image, names sorted."""
    import yaml

    plain: dict = {"root": str((root / name).resolve())}
    if name == "nuclei":
        plain["threshold"] = 1  # its masks hold the number of each nucleus: all are foreground here
    if name != "camvid":
        names = sorted(path.stem for path in (root / name / "images").iterdir())
        train = [image for index, image in enumerate(names) if index % 5]
        plain["splits"] = {"train": train, "val": names[::5]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path


def judge(data, name: str, predict) -> float:
    """The score of `predict` (image -> SemanticMap) on the validation images; the one judge of both."""
    from nuriwake.metrics.semantic import SemanticMetric

    metric = SemanticMetric(data.space)
    for record in data.records("val"):
        sample = data.read(record)
        metric.update(predict(sample.image), sample.target)
    return metric.compute()[METRIC[name]]


def run_ours(options: argparse.Namespace, described: Path) -> dict:
    """Train through the public face, then judge the bundle; the curve is the run's own evaluations, by the same metric."""
    import nuriwake as nw

    folder = options.out / "ours"
    overrides = {
        "model.backbone_weights": str(options.root / WEIGHTS),
        "evaluation.metric": METRIC[options.data],
        **dict(pair.split("=", 1) for pair in options.set),
    }
    started = time.perf_counter()
    run = nw.train(
        described, model="unet_mobilenet_v2", out=folder, budget=f"{options.minutes * 60:g}s", overrides=overrides
    )
    took = time.perf_counter() - started
    lines = [line for line in run.history if line["kind"] == "evaluation"]
    curve = [(line["seconds"] / 60, line["scores"][METRIC[options.data]]) for line in lines]
    data = nw.open_data(described)
    tuned = judge(data, options.data, nw.load(folder))
    final = judge(data, options.data, nw.load(folder, settings=nw.PredictSettings()))
    steps = max((line["step"] for line in run.history), default=0)
    return {"curve": curve, "final": final, "tuned": tuned, "steps": steps, "minutes": took / 60}


def run_plain(options: argparse.Namespace, described: Path) -> dict:
    """The loop a careful user writes by hand in half an hour."""
    import numpy as np
    import torch
    from segmentation_models_pytorch.losses import DiceLoss

    from nuriwake.core.labels import IGNORE
    from nuriwake.data.formats import open_data

    data = open_data(described)
    binary = data.space.binary
    samples = [data.read(record) for record in data.records("train")]
    images, masks = [rgb(sample.image) for sample in samples], [sample.target.labels for sample in samples]
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = plain_model(options.root / WEIGHTS, 1 if binary else len(data.space))
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    criterion = DiceLoss("binary" if binary else "multiclass", ignore_index=IGNORE)
    curve, steps, order, clock = [], 0, [], PlainClock()
    marks = [options.minutes * 60 * (mark + 1) / MARKS for mark in range(MARKS)]
    while marks:
        if len(order) < BATCH:
            order = [*order, *random.permutation(len(images)).tolist()]
        batch = [crop(images[index], masks[index], random, IGNORE) for index in order[:BATCH]]
        order = order[BATCH:]
        inputs = torch.from_numpy(np.stack([normalised(image) for image, _ in batch]))
        truth = torch.from_numpy(np.stack([mask for _, mask in batch])).long()
        optimiser.zero_grad(set_to_none=True)
        criterion(model(inputs), truth[:, None] if binary else truth).backward()
        optimiser.step()
        steps += 1
        if clock.seconds >= marks[0]:
            with clock.paused():
                score = judge(data, options.data, lambda image: plain_prediction(model, image, data.space))
                curve.append((clock.seconds / 60, score))
                print(f"plain: {curve[-1][0]:.2f} min, step {steps}: {score:.4f}", flush=True)
            marks = [mark for mark in marks if mark > clock.seconds]
    return {"curve": curve, "final": curve[-1][1], "steps": steps, "minutes": clock.seconds / 60}


class PlainClock:
    """Seconds since it was made, without those spent in `paused` blocks."""

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._held: float | None = None

    @property
    def seconds(self) -> float:
        return (time.perf_counter() if self._held is None else self._held) - self._zero

    @contextlib.contextmanager
    def paused(self):
        self._held = time.perf_counter()
        yield
        self._zero += time.perf_counter() - self._held
        self._held = None


def plain_model(weights: Path, classes: int):
    """smp's U-Net over MobileNetV2 with torchvision's file in its encoder."""
    import segmentation_models_pytorch as smp
    import torch

    model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=classes)
    model.encoder.load_state_dict(torch.load(weights, weights_only=True))
    return model.train()


def plain_prediction(model, image, space):
    """`image` (H, W, C) at full size, its border reflected to a multiple of 32 -> SemanticMap."""
    import numpy as np
    import torch

    from nuriwake.core.targets import SemanticMap

    height, width = image.shape[:2]
    inputs = torch.from_numpy(normalised(rgb(image)))[None]
    inputs = torch.nn.functional.pad(inputs, (0, -width % 32, 0, -height % 32), mode="reflect")
    model.eval()
    with torch.inference_mode():
        logits = model(inputs)[0, :, :height, :width]
    model.train()
    labels = (logits[0] > 0) if len(logits) == 1 else logits.argmax(0)
    return SemanticMap(labels.numpy().astype(np.uint8), space)


def rgb(image):
    """Grey images as three equal channels."""
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def normalised(image):
    """uint8 (H, W, 3) -> float32 (3, H, W), by ImageNet's mean and deviation."""
    import numpy as np

    scaled = (image.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def crop(image, mask, random, ignore: int):
    """A random window of 320 pixels, flipped either way by chance; smaller images are reflected, their rim ignored."""
    import numpy as np

    below, right = max(CROP - mask.shape[0], 0), max(CROP - mask.shape[1], 0)
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="reflect")
        mask = np.pad(mask, ((0, below), (0, right)), constant_values=ignore)
    top, left = (random.integers(0, side - CROP + 1) for side in mask.shape)
    window = slice(top, top + CROP), slice(left, left + CROP)
    image, mask = image[window], mask[window]
    for axis in (0, 1):
        if random.random() < 0.5:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return image, mask


def print_table(results: dict[str, dict], metric: str) -> None:
    print(f"\n{'minutes':>8} {'contender':<10} {metric}")
    points = [(minutes, role, score) for role, found in results.items() for minutes, score in found["curve"]]
    for minutes, role, score in sorted(points):
        print(f"{minutes:8.2f} {role:<10} {score:.4f}")
    for role, found in results.items():
        print(f"final    {role:<10} {found['final']:.4f}   {found['steps']} steps in {found['minutes']:.2f} minutes")
    print(f"ours with its tuned thresholds: {results['ours']['tuned']:.4f}")
    print(f"ours - plain, both at 0.5: {results['ours']['final'] - results['plain']['final']:+.4f}")


def parent(options: argparse.Namespace) -> None:
    """Run both contenders in turns, print, and write results.json and score_time.png."""
    from nuriwake.viz import save_figure, score_time_figure

    if (options.out / "ours").exists():
        raise SystemExit(f"{options.out / 'ours'} holds an earlier run; name another --out or remove it")
    options.out.mkdir(parents=True, exist_ok=True)
    describe(options.data, options.root, options.out)
    roles = ("ours", "plain") if options.only is None else (options.only,)
    if options.slice:
        take_turns([Contender(role, sys.argv[1:], options.out) for role in roles], options.slice)
    else:
        for role in roles:
            take_turns([Contender(role, sys.argv[1:], options.out)], 0)
    results = {role: json.loads((options.out / f"{role}.json").read_text()) for role in roles}
    (options.out / "results.json").write_text(
        json.dumps({"data": options.data, "minutes": options.minutes, "slice": options.slice, **results}, indent=1)
    )
    curves = {"nuriwake" if role == "ours" else "plain smp loop": found["curve"] for role, found in results.items()}
    figure = score_time_figure(curves, metric=METRIC[options.data], target=TARGET.get(options.data))
    save_figure(figure, options.out / "score_time.png")
    if len(roles) == 2:
        print_table(results, METRIC[options.data])
    print(f"written: {options.out / 'results.json'}, {options.out / 'score_time.png'}")


def child(options: argparse.Namespace) -> None:
    RunningClock(options.out / f"clock-{options.role}").install()
    described = options.out / f"{options.data}.yaml"
    result = {"ours": run_ours, "plain": run_plain}[options.role](options, described)
    (options.out / f"{options.role}.json").write_text(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(METRIC), default="nuclei")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/quality_per_minute"))
    parser.add_argument("--slice", type=float, default=30.0, help="seconds of a turn; 0 runs one after the other")
    parser.add_argument("--only", choices=("ours", "plain"), help="run just one of the two")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of our RunConfig")
    parser.add_argument("--role", choices=("ours", "plain"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    child(chosen) if chosen.role else parent(chosen)
