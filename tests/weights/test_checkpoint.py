"""Published checkpoints, written in their published formats: read, run, and compared with the published outputs."""

import json
import os
import pickle
import sys
import types
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import nuriwake as nw
from nuriwake.cli import run
from nuriwake.core.errors import UserError
from nuriwake.inference.preprocessing import Preprocessing
from nuriwake.models import build_model, count_parameters
from nuriwake.models.outputs import fit_logits
from nuriwake.weights.checkpoint import predictor_of, read_checkpoint
from nuriwake.weights.class_lists import CLASS_LISTS, THINGS
from nuriwake.weights.contents import Contents
from nuriwake.weights.processor import read_processor
from nuriwake.weights.recognition import fit, recognise
from nuriwake.weights.sources import all_sources

REFERENCES = {
    "textbook__unet": ("unet of the textbook U-Net", "unet"),
    "milesial__unet": ("unet of the textbook U-Net", "unet"),
    "milesial__unet_bilinear": ("unet of the textbook U-Net", "unet"),
    "smp__unet_resnet34": ("unet of segmentation_models_pytorch", "unet_resnet34"),
    "smp__deeplabv3plus_mobilenet_v2": ("deeplabv3plus of segmentation_models_pytorch", None),
    "smp__deeplabv3plus_resnet50": ("deeplabv3plus of segmentation_models_pytorch", None),
    "smp__fpn_resnet50": ("semantic_fpn of segmentation_models_pytorch", "semantic_fpn_resnet50"),
    "smp__pspnet_resnet50": ("pspnet of segmentation_models_pytorch", "pspnet_resnet50"),
    "smp__segformer_mit_b0": ("segformer of segmentation_models_pytorch", "segformer_b0"),
    "torchvision__deeplabv3_mobilenet_v3_large": ("deeplabv3 of torchvision", "deeplabv3_mobilenet_v3_large"),
    "torchvision__deeplabv3_resnet50": ("deeplabv3 of torchvision", "deeplabv3_resnet50"),
    "transformers__segformer_b0": ("segformer of transformers (Hugging Face)", "segformer_b0"),
    "transformers__segformer_b2": ("segformer of transformers (Hugging Face)", "segformer_b2"),
    "mmseg__unet-s5-d16_fcn": ("unet of mmsegmentation", "unet"),
    "mmseg__deeplabv3plus_r50-d8": ("deeplabv3plus of mmsegmentation", "deeplabv3plus_resnet50_v1c"),
    "mmseg__fcn_hr18": ("hrnet of mmsegmentation", "hrnet_w18"),
    "mmseg__fpn_r50": ("semantic_fpn of mmsegmentation", "semantic_fpn_resnet50_v1c"),
    "mmseg__pspnet_r50-d8": ("pspnet of mmsegmentation", "pspnet_resnet50_v1c"),
    "mmseg__segformer_mit-b0": ("segformer of mmsegmentation", "segformer_b0"),
    "hrnet__hrnet_w48": ("hrnet of HRNet-Semantic-Segmentation", "hrnet_w48"),
    "hrnet__hrnet_ocr_w48": ("hrnet_ocr of HRNet-Semantic-Segmentation", "hrnet_ocr_w48"),
    "semseg__pspnet50": ("pspnet of semseg", "pspnet_resnet50_semseg"),
    "detectron2__semantic_R_50_FPN_1x": ("semantic_fpn of Detectron2", "semantic_fpn_resnet50_caffe"),
}
EVERY = pytest.mark.parametrize("name", REFERENCES)


@pytest.fixture
def formula(parity, monkeypatch):
    monkeypatch.syspath_prepend(str(parity))
    yield __import__("formula")
    sys.modules.pop("formula", None)


def tensors(arrays):
    return {key: torch.from_numpy(item) for key, item in arrays.items()}


def write_plain(folder, state):
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def write_textbook(folder, state):
    return write_plain(folder, {**state, "mask_values": [0, 1]})


def write_transformers(folder, state):
    """A repository as `save_pretrained` leaves it; B2 as it was in the days of `pytorch_model.bin`."""
    names = {str(label): f"thing {label}" for label in range(19)}
    (folder / "config.json").write_text(json.dumps({"model_type": "segformer", "id2label": names}))
    processor = {"size": {"height": 320, "width": 640}, "image_mean": [0.485, 0.456, 0.406]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"image_std": [0.229, 0.224, 0.225]}))
    if len(state) > 300:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def write_smp(folder, state):
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"encoder_name": "any", "classes": 7}))
    return folder


def write_mm(folder, state):
    """With objects of mmengine in `meta` and `message_hub`, which is gone when the file is read."""
    module = types.ModuleType("mmfake")
    module.ConfigDict = type("ConfigDict", (dict,), {"__module__": "mmfake", "__qualname__": "ConfigDict"})
    sys.modules["mmfake"] = module
    meta = {"cfg": module.ConfigDict(a=1), "dataset_meta": {"classes": ("thing",), "palette": [[1, 2, 3]]}}
    saved = {"meta": meta, "message_hub": module.ConfigDict(b=2), "state_dict": state, "optimizer": {"state": {}}}
    torch.save(saved, folder / "mm.pth")
    del sys.modules["mmfake"]
    return folder / "mm.pth"


def write_wrapped(folder, state, prefix="module."):
    torch.save(
        {"epoch": 3, "state_dict": {f"{prefix}{key}": item for key, item in state.items()}}, folder / "train.pth"
    )
    return folder / "train.pth"


def write_hrnet(folder, state):
    path = write_wrapped(folder, state, "model.")
    whole = torch.load(path)["state_dict"] | {"loss.criterion.weight": torch.ones(19)}
    torch.save(whole, path)
    return path


def write_detectron2(folder, state):
    arrays = {key: item.numpy() for key, item in state.items()}
    saved = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (folder / "model_final.pkl").write_bytes(pickle.dumps(saved, 2))
    return folder / "model_final.pkl"


WRITERS = {
    "textbook": write_plain, "milesial": write_textbook, "torchvision": write_plain, "transformers": write_transformers,
    "smp": write_smp, "mmseg": write_mm, "hrnet": write_hrnet, "semseg": write_wrapped, "detectron2": write_detectron2,
}  # fmt: skip


# Measured for SegFormer: 2e-6 at most. The layer norms' epsilon of another source would cost up to 3e-5.
TOLERANCE = {name: 1e-5 if "segformer" in name else 1e-4 for name in REFERENCES}
# Those of which the file holds every parameter and nothing besides.
COUNTED = [name for name in REFERENCES if name.startswith(("hrnet__", "mmseg__fcn_hr")) or "segformer" in name]


def compared(imported, images, outputs):
    """(found, published) for everything that the reference tells."""
    model, size = imported.model, tuple(images.shape[-2:])
    with torch.no_grad():
        if imported.bundle.model.name.startswith("hrnet"):  # before they are enlarged
            scores = model.scores(images)
            found = scores if isinstance(scores, tuple) else (scores,)
            keys = ("output.1", "output.0") if len(found) == 2 else ("output",)
            return [(item.numpy(), outputs[key]) for item, key in zip(found, keys, strict=True)]
        logits = model(images).logits
        if "sem_seg_strided4" in outputs:
            maps = model.pyramid(model.encoder(images)[model.first :])
            pairs = [(fit_logits(logits, size)[0, :, ::4, ::4].numpy(), outputs["sem_seg_strided4"])]
            return pairs + [(item.numpy(), outputs[f"features.p{level}"]) for level, item in enumerate(maps, 2)]
    expected = outputs[next(key for key in ("out", "logits", "output") if key in outputs)]
    return [(fit_logits(logits, expected.shape[-2:]).numpy(), expected)]


@EVERY
def test_files_in_their_published_format_answer_as_published(name, parity, formula, tmp_path):
    facts = json.loads((parity / f"{name}.json").read_text())
    path = WRITERS[name.split("__")[0]](tmp_path, tensors(formula.state_dict(parity / f"{name}.json")))
    imported = read_checkpoint(path)
    recognised, model = REFERENCES[name]
    spec, report = imported.bundle.model, imported.report
    assert report.recognised == recognised
    assert model is None or spec.name == model
    extra = {"milesial": 1, "hrnet": 1}.get(name.split("__")[0], 0)
    assert report.used + len(report.left_out) == len(facts["keys"]) + extra
    assert all(report.left_out.values())
    assert not imported.model.training
    assert len(imported.bundle.space) == spec.classes
    # What the model gets is what its preprocessing makes of the image, but that textbook files say nothing of it.
    image, preprocessing = facts["input"], imported.bundle.preprocessing
    pixels = formula.image(image["image"], image["height"], image["width"])
    images = torch.from_numpy(preprocessing.tensor(pixels))[None]
    if recognised.endswith("textbook U-Net"):
        images = torch.from_numpy(formula.normalised(image["image"], image["height"], image["width"]))
    for found, expected in compared(imported, images, np.load(parity / f"{name}.npz")):
        assert found.shape == expected.shape
        off = np.abs(found - expected).max() / np.abs(expected).max()
        print(f"{name}: {off:.1e}, {report.used} used, {len(report.left_out)} left out")
        assert off <= TOLERANCE[name]
    if name in COUNTED:
        assert count_parameters(imported.model) == facts["parameters"]


def meta_contents(parity, name):
    keys = json.loads((parity / f"{name}.json").read_text())["keys"]
    arrays = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    return Contents(parity / f"{name}.pth", arrays)


@EVERY
def test_one_array_missing_extra_or_misshapen_is_named(name, parity):
    whole = meta_contents(parity, name)
    source, spec = recognise(whole)
    assert not fit(source, spec, whole).misfit
    used = [key for key in whole.arrays if source.rename(key) is not None and key.endswith("weight")]
    for key in (used[0], used[len(used) // 2], used[-1]):
        shape = (3, *whole.arrays[key].shape[1:], 5)
        for arrays, message in (
            ({other: item for other, item in whole.arrays.items() if other != key}, "missing|lacks"),
            (whole.arrays | {key: torch.empty(shape, device="meta")}, "expected|shape|supported are"),
        ):
            with pytest.raises(UserError, match=message):
                refuse(Contents(whole.file, arrays))
    with pytest.raises(UserError, match="1 unexpected: surplus"):
        refuse(Contents(whole.file, whole.arrays | {"surplus.weight": torch.empty(3, device="meta")}))


def refuse(contents):
    source, spec = recognise(contents)
    misfit = fit(source, spec, contents).misfit
    if misfit:
        raise UserError(f"does not fit: {misfit}.")


def small_unet(classes=2, width=4):
    """The arrays of a textbook U-Net file."""
    layers = {"first": 0, "first_norm": 1, "second": 3, "second_norm": 4}
    state = {}
    for key, item in build_model("unet", in_channels=3, classes=classes, options={"width": width}).state_dict().items():
        part, *rest = key.split(".")
        if part in ("encoder", "decoder"):
            level, array = int(rest[0]), f"double_conv.{layers[rest[1]]}.{rest[2]}"
            place = f"up{level + 1}.conv" if part == "decoder" else f"down{level}.maxpool_conv.1" if level else "inc"
            state[f"{place}.{array}"] = item
        elif part == "upsamplings":
            state[f"up{int(rest[0]) + 1}.up.{rest[1]}"] = item
        else:
            state[f"outc.conv.{rest[0]}"] = item
    return state


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_refusals_name_file_and_arrays(tmp_path):
    state = small_unet()
    path = write_plain(tmp_path, {key: item for key, item in state.items() if key != "up3.up.bias"})
    assert "1 missing: up3.up.bias" in refusal(path)
    path = write_plain(tmp_path, state | {"more": torch.ones(1)})
    assert "weights.pth: recognised as unet of the textbook U-Net (unet)" in refusal(path)
    assert "1 unexpected: more" in refusal(path)
    path = write_plain(tmp_path, state | {"up3.up.bias": torch.ones(5)})
    assert "up3.up.bias (expected 8, found 5)" in refusal(path)
    path = write_plain(tmp_path, state | {"words": ["a"]})
    assert "words (a value of type list)" in refusal(path)
    path = write_plain(tmp_path, {"a.weight": torch.ones(2), "b.weight": torch.ones(2)})
    text = refusal(path)
    assert "2 arrays (a.weight, b.weight) are of no published checkpoint" in text
    assert "pspnet of semseg" in text
    path = write_plain(tmp_path, {key: item for key, item in state.items() if not key.startswith("outc")})
    assert "recognised as unet of the textbook U-Net, but the array 'outc.conv.weight' is missing" in refusal(path)
    path = write_plain(tmp_path, {key: item for key, item in state.items() if ".double_conv.3." not in key})
    # No array is left that would tell the published names.
    assert "18 missing: encoder.0.second.weight" in refusal(path)
    path = write_plain(tmp_path, {key: item for key, item in state.items() if not key.startswith("down1")})
    assert "The nearest is unet of the textbook U-Net: 12 missing" in refusal(path)
    assert "Did you mean 'segformer'" in refusal(path, architecture="segfomer")
    path = write_plain(tmp_path, state)
    assert "can be read; looked for: pspnet of semseg" in refusal(path, architecture="pspnet")
    assert "tells 2 classes apart, but 3 names" in refusal(path, classes=("a", "b", "c"))
    assert "no such file or folder" in refusal(tmp_path / "none.pth")
    (tmp_path / "empty").mkdir()
    assert "has neither model.safetensors nor pytorch_model.bin" in refusal(tmp_path / "empty")


def wrapped(state, prefix="model."):
    return {f"{prefix}{key}": item for key, item in state.items()}


def test_wrappers_may_hold_a_little_beside_the_model(tmp_path):
    state = small_unet()
    images = {"mean": torch.full((1, 3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    for arrays, beside in (
        (wrapped(state), images),
        (wrapped(state), {"criterion.weight": torch.ones(2), "loss_fn.pos_weight": torch.ones(1)}),
        (wrapped(state, "module."), {"n_averaged": torch.tensor(7)}),
        (wrapped(wrapped(state, "module."), "model.") | {"model.n_averaged": torch.tensor(7)}, images),
    ):
        torch.save({"state_dict": arrays | beside}, tmp_path / "train.ckpt")
        report = read_checkpoint(tmp_path / "train.ckpt").report
        extra = len(arrays) + len(beside) - len(state)
        assert (report.used, len(report.left_out)) == (len(state), extra)
        assert set(beside) <= report.left_out.keys()
    assert "the mean by which the training program normalised images, 0.5 0.5 0.5" in report.left_out["mean"]
    for more in ({"more.weight": torch.ones(2)}, {"mean": torch.ones(3, 3)}):
        torch.save(wrapped(state) | {"criterion.weight": torch.ones(2)} | more, tmp_path / "train.ckpt")
        assert (
            f"recognised as unet of the textbook U-Net (unet), but its arrays do not fit: 1 unexpected: {next(iter(more))}"
            in (refusal(tmp_path / "train.ckpt"))
        )
    # A prefix that hides two arrays of one name is none.
    torch.save(wrapped(state) | {"outc.conv.bias": torch.ones(2)}, tmp_path / "train.ckpt")
    assert "are of no published checkpoint" in refusal(tmp_path / "train.ckpt")


def test_the_weights_come_before_their_average_in_whatever_they_are_wrapped(tmp_path):
    state = small_unet()
    other = {key: torch.full_like(item, 2) for key, item in state.items()}
    path = tmp_path / "train.pth"
    for key in ("net", "params", "state_dict_ema", "model_ema"):
        torch.save({"epoch": 3, key: state}, path)
        assert read_checkpoint(path).report.used == len(state)
    torch.save({"model_ema": wrapped(other, "module."), "model": state, "params": {"rate": 0.1}}, path)
    imported = read_checkpoint(path)
    assert torch.equal(imported.model.head.bias, state["outc.conv.bias"])
    assert any("Beside the arrays the file has model_ema, params; not used." in note for note in imported.report.notes)


def test_torchvisions_auxiliary_head_is_left_out_where_only_the_classifier_was_replaced(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, aux_loss=True
    )
    theirs.classifier[-1] = torch.nn.Conv2d(256, 4, 1)
    imported = read_checkpoint(write_plain(tmp_path, theirs.state_dict()))
    assert imported.bundle.model.classes == 4
    assert all(key.startswith("aux_classifier.") for key in imported.report.left_out)
    assert "auxiliary head of another number of classes" in imported.report.left_out["aux_classifier.4.weight"]
    assert len(imported.report.left_out) == sum(key.startswith("aux_classifier.") for key in theirs.state_dict())


def test_smps_images_are_prepared_as_its_encoders_were(tmp_path):
    shapes: dict[str, tuple[int, ...]] = {}
    sources = [item for item in all_sources() if item.source == "smp"]
    assert {item.architecture for item in sources} == {
        *("unet", "pspnet", "deeplabv3", "deeplabv3plus", "semantic_fpn", "segformer")
    }
    for source in sources:
        for name, mean, noted in (
            ("tu-tf_efficientnetv2_s", (0.5,) * 3, False),
            ("tu-resnet50.a1_in1k", Preprocessing().mean, False),
            ("tu-resnet50.nobody_knows", Preprocessing().mean, True),
            ("tu-nothing", Preprocessing().mean, True),
            ("resnet34", Preprocessing().mean, True),
        ):
            found = source.preprocessing_of(shapes, {"encoder_name": name})
            assert found.mean == mean
            assert found.deviation == (mean if mean == (0.5,) * 3 else Preprocessing().deviation)
            notes = source.notes_of({"encoder_name": name}, {})
            assert any("does not say how images were prepared" in note for note in notes) == noted


def test_mmsegmentations_unet_under_another_head_is_refused_by_name(parity):
    unet = meta_contents(parity, "mmseg__unet-s5-d16_fcn")
    backbone = {key: item for key, item in unet.arrays.items() if key.startswith("backbone.")}
    for name, head in (("mmseg__pspnet_r50-d8", "pspnet"), ("mmseg__deeplabv3plus_r50-d8", "deeplabv3plus")):
        arrays = meta_contents(parity, name).arrays
        heads = {key: item for key, item in arrays.items() if not key.startswith("backbone.")}
        with pytest.raises(
            UserError, match=rf"recognised as {head} of mmsegmentation\. .* another architecture over a U-Net"
        ):
            recognise(Contents(unet.file, backbone | heads))


@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_whose_numbers_no_model_can_use_are_named(tmp_path, zipped):
    state, key = small_unet(), "down1.maxpool_conv.1.double_conv.0.weight"
    broken, infinite = state[key].clone(), state[key].clone()
    broken.view(-1)[5], infinite.view(-1)[0] = torch.nan, torch.inf
    for item, why in (
        (broken, "NaN or infinite numbers, as a diverged training leaves them"),
        (infinite.half(), "NaN or infinite numbers, as a diverged training leaves them"),
        (state[key].to(torch.complex64), "complex64 where float32 belongs"),
        (state[key].to(torch.int8), "int8 where float32 belongs"),
        (state[key] > 0, "bool where float32 belongs"),
    ):
        torch.save(state | {key: item}, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
        assert f"weights.pth: 1 of its arrays hold what no model can use: {key} ({why})." in refusal(
            tmp_path / "weights.pth"
        )
    # Counters are no numbers that a model works with; whole numbers and halves of them do no harm.
    counter = "inc.double_conv.1.num_batches_tracked"
    torch.save(state | {counter: torch.tensor(3.0), key: state[key].double()}, tmp_path / "weights.pth")
    assert read_checkpoint(tmp_path / "weights.pth").report.used == 136


def test_a_processor_without_scaling_or_normalising_is_followed():
    base, file = Preprocessing(), Path("preprocessor_config.json")
    plain, notes = read_processor(base, {"do_rescale": False, "do_normalize": False, "image_mean": [0.5] * 3}, file)
    assert (plain.maximum, plain.mean, plain.deviation, notes) == (1.0, (0.0,) * 3, (1.0,) * 3, ())
    usual, _ = read_processor(base, {"rescale_factor": 0.00392156862745098, "image_std": [0.5] * 3}, file)
    assert (usual.maximum, usual.mean, usual.deviation) == (255.0, base.mean, (0.5,) * 3)
    assert usual.resize.exact == (512, 512)
    other, _ = read_processor(base, {"rescale_factor": 1 / 127.5, "do_resize": False}, file)
    assert (other.maximum, other.resize) == (127.5, None)
    # As transformers has it: value * factor first, then the mean.
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    asked = {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]}
    found, _ = read_processor(base, asked | {"do_flip_channel_order": True}, file)
    expected = (image[..., ::-1] - np.array(asked["image_mean"])) / np.array(asked["image_std"])
    np.testing.assert_allclose(found.tensor(image), expected.transpose(2, 0, 1), atol=1e-5)
    _, notes = read_processor(base, {"resample": 3, "do_center_crop": True}, file)
    assert "bicubic interpolation; here it is linear" in notes[0]
    assert "cuts out the middle" in notes[1]
    for wrong in ({"rescale_factor": 0}, {"image_mean": 0.5}, {"size": "large"}, {"rescale_factor": None}):
        with pytest.raises(UserError, match=r"preprocessor_config\.json: cannot be understood"):
            read_processor(base, wrong, file)


class Malicious:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_unsafe_and_damaged_files_are_refused_and_nothing_runs(tmp_path):
    mark, path, state = tmp_path / "ran", tmp_path / "evil.pth", small_unet()
    for saved in (
        {**state, "x": Malicious(f"touch {mark}")},
        {"state_dict": state, "meta": Malicious(f"touch {mark}")},
    ):
        torch.save(saved, path)
        assert "refused, nothing in it was run: it wants the object" in refusal(path)
        assert not mark.exists()
    whole = write_plain(tmp_path, state).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut off, damaged or of another format" in refusal(path)
    save_file(state, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut off, damaged or of another format" in refusal(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(10_000_000))
    assert "zip bomb" in refusal(path)
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    assert "wants the object 'torch.nn.modules.conv.Conv2d'" in refusal(path)
    torch.save([1, 2], path)
    assert "expected a state dict" in refusal(path)


def test_class_names_come_from_the_user_the_file_or_the_data_set(tmp_path, parity):
    assert {key[1]: len(set(names)) for key, names in CLASS_LISTS.items()} == {key[1]: key[1] for key in CLASS_LISTS}
    assert read_checkpoint(write_plain(tmp_path, small_unet())).bundle.space.names == ("class_0", "class_1")
    assert {count: sum(things) for count, things in THINGS.items()} == {133: 80, 150: 100, 19: 8}
    ade20k = dict(zip(CLASS_LISTS["ade20k", 150], THINGS[150], strict=True))
    assert not any(ade20k[name] for name in ("wall", "sky", "floor", "tree", "road", "grass", "shower"))
    assert all(ade20k[name] for name in ("bed", "windowpane", "person", "car", "flag", "clock"))
    assert CLASS_LISTS["cityscapes", 8] == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    path = write_plain(tmp_path, small_unet(classes=1))
    assert read_checkpoint(path).bundle.space.names == ("background", "foreground")
    assert read_checkpoint(path, classes=("sky", "cloud")).bundle.space.names == ("sky", "cloud")
    torch.save({"state_dict": small_unet(), "meta": {"CLASSES": ("bed ", "bed")}}, path)
    assert read_checkpoint(path).bundle.space.names == ("bed", "bed (2)")


def test_half_precision_and_grey_images_are_told(tmp_path):
    state = {key: item.half() if item.is_floating_point() else item for key, item in small_unet().items()}
    state["inc.double_conv.0.weight"] = state["inc.double_conv.0.weight"][:, :1].clone()
    imported = read_checkpoint(write_plain(tmp_path, state))
    assert imported.model.head.weight.dtype == torch.float32
    assert imported.bundle.preprocessing.channels == 1
    assert any("float16" in note for note in imported.report.notes)
    assert any("1 channels" in note for note in imported.report.notes)
    answer = predictor_of(imported)(np.zeros((40, 33), np.uint8))
    assert answer.labels.shape == (40, 33)


def test_import_then_predict(tmp_path, capsys):
    path, bundle = write_plain(tmp_path, small_unet()), tmp_path / "bundle.safetensors"
    (tmp_path / "names.txt").write_text("road\ncar\n")
    assert run(["import", str(path), "--out", str(bundle), "--classes", str(tmp_path / "names.txt")]) == 0
    said = capsys.readouterr().out
    for part in (
        "Recognised: unet of the textbook U-Net",
        "136 used, 0 left out",
        "road, car",
        "Licence",
        "divided by 255",
    ):
        assert part in said
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    assert run(["predict", str(bundle), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]) == 0
    predictor = nw.read_checkpoint(path, classes=("road", "car"))
    assert predictor.space.names == ("road", "car")
    np.testing.assert_array_equal(predictor(image).labels, nw.load(bundle)(tmp_path / "photo.png").labels)
    assert run(["import", str(bundle), "--out", str(tmp_path / "again.safetensors")]) == 2
    assert "a bundle of nuriwake already" in " ".join(capsys.readouterr().err.split())
    assert run(["import", str(path), "--out", str(tmp_path / "a.pth")]) == 2
    assert "Task: semantic." in said
    assert run(["import", str(path), "--out", str(tmp_path / "b.safetensors"), "--task", "instance"]) == 2
    assert "it answers semantic, not 'instance'" in " ".join(capsys.readouterr().err.split())
    assert "its things cannot be chosen" in refusal(path, things=("class_1",))


def test_every_source_pads_as_its_program_does():
    """What the models saw beyond the border of small images; the sources are named where the constants stand."""
    expected = {"torchvision": "black", "hrnet": "black", "textbook": "mirror", "smp": "mirror"}
    for source in all_sources():
        if source.task == "semantic" and not source.guessed:
            found = source.preprocessing_of(defaultdict(lambda: (7, 256, 1, 1)), {})
            assert found.padding == expected.get(source.source, "zero"), source


@pytest.mark.parametrize(
    ("name", "key", "sizes", "tiles"),
    [
        # (classes, size of a 300x600 image): mmsegmentation's configs/_base_/datasets, semseg's config/*/*_pspnet50.yaml.
        (
            "mmseg__pspnet_r50-d8",
            "decode_head.conv_seg.weight",
            {150: (512, 1024), 21: (512, 1024), 19: (1024, 2048)},
            {},
        ),
        ("mmseg__fpn_r50", "decode_head.conv_seg.weight", {150: (512, 1024), 19: (1024, 2048), 7: None}, {}),
        ("mmseg__fcn_hr18", "decode_head.conv_seg.weight", {19: (1024, 2048)}, {}),
        ("mmseg__deeplabv3plus_r50-d8", "decode_head.conv_seg.weight", {21: (512, 1024)}, {}),
        ("mmseg__segformer_mit-b0", "decode_head.conv_seg.weight", {150: (512, 1024), 19: (1024, 2048)}, {}),
        (
            "semseg__pspnet50",
            "cls.4.weight",
            {150: (256, 512), 21: (256, 512), 19: (1024, 2048), 7: None},
            {150: (473, 1 / 3), 19: (713, 1 / 3)},
        ),
    ],
)
def test_sizes_are_those_of_the_data_set_that_the_number_of_classes_tells(name, key, sizes, tiles, parity):
    shapes = meta_contents(parity, name).shapes
    (source,) = [item for item in all_sources() if item.recognise(shapes)]
    for classes, size in sizes.items():
        rule = source.preprocessing_of(shapes | {key: (classes, *shapes[key][1:])}, {}).resize
        assert (None if rule is None else rule.size((300, 600))) == size
        assert size is None or max(rule.size((100, 1000))) <= max(2048, *size)
    for classes, tile in tiles.items():
        assert source.tiling(shapes | {key: (classes, *shapes[key][1:])}) == tile
