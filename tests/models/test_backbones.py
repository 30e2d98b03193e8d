"""Backbones: torchvision's own features from torchvision's own file, timm's from timm's, and refusals that name arrays."""

import threading
import time
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from nuriwake.core import download
from nuriwake.core.errors import RunError, UserError
from nuriwake.models import build_model
from nuriwake.models.backbones import BACKBONES, build_backbone
from nuriwake.models.backbones.consent import forbidding_licence
from nuriwake.models.backbones.weights import adapt_channels

ENDS = (1, 3, 6, 13)


def torchvision_mobilenet(seed: int = 0) -> nn.Module:
    import torchvision

    torch.manual_seed(seed)
    model = torchvision.models.mobilenet_v2(weights=None)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # fresh statistics would hide a mistake in them
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return model.eval()


def torchvision_maps(model: nn.Module, images: torch.Tensor, last: int) -> list[torch.Tensor]:
    maps, x = [], images
    for index, block in enumerate(model.features):
        x = block(x)
        if index in (*ENDS, last):
            maps.append(x)
    return maps[:5]


@pytest.fixture(scope="module")
def mobilenet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(torchvision_mobilenet().state_dict(), path)
    return path


@pytest.mark.parametrize(("name", "last"), [("mobilenet_v2", 17), ("mobilenet_v2_1280", 18)])
def test_mobilenet_v2_gives_torchvisions_features_exactly(mobilenet_file, name, last):
    images = torch.randn(2, 3, 64, 96)
    ours = build_backbone(name, in_channels=3, weights=mobilenet_file).eval()
    with torch.no_grad():
        found, expected = ours(images), torchvision_maps(torchvision_mobilenet(), images, last)
    assert tuple(x.shape[1] for x in found) == ours.channels
    assert tuple(64 // x.shape[2] for x in found) == ours.strides
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_shared_file_gives_torchvisions_features_exactly(shared):
    import torchvision

    path = shared / "data" / "weights" / "mobilenet_v2-b0353104.pth"
    theirs = torchvision.models.mobilenet_v2(weights=None)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = build_backbone("mobilenet_v2", in_channels=3, weights=path).eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for a, b in zip(ours(images), torchvision_maps(theirs.eval(), images, 17), strict=True):
            assert torch.equal(a, b)
    assert "left out (behind the last feature map): features.18.0, features.18.1, classifier.1." in ours.notes[0]


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_keeps_the_resolution(mobilenet_file, stride):
    plain = build_backbone("mobilenet_v2", in_channels=3, weights=mobilenet_file).eval()
    dilated = build_backbone("mobilenet_v2", in_channels=3, weights=mobilenet_file, output_stride=stride).eval()
    assert dilated.strides[-1] == stride
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        maps = dilated(images)
        reference = plain(images)
    assert [128 // x.shape[2] for x in maps] == list(dilated.strides)
    # Up to the first dilated stage nothing differs.
    for index, value in enumerate(plain.strides):
        if value <= stride:
            assert torch.equal(maps[index], reference[index])
    kernels = [part for part in dilated.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert {part.dilation[0] for part in kernels} == {1, *(2**step for step in range(1, 6 - stride.bit_length() + 1))}


def test_other_output_strides_are_refused():
    with pytest.raises(UserError, match=r"8, 16 or 32.*4"):
        build_backbone("mobilenet_v2", in_channels=3, output_stride=4)


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_the_first_convolution_adapts_to_other_channels(mobilenet_file, channels):
    kernel = torch.load(mobilenet_file, weights_only=True)["features.0.0.weight"]
    backbone = build_backbone("mobilenet_v2", in_channels=channels, weights=mobilenet_file)
    found = backbone.features[0][0].weight
    rgb = (kernel[:, 0], kernel[:, 1], kernel[:, 2])
    for channel in range(channels):
        expected = sum(rgb) if channels == 1 else rgb[channel % 3] * 3 / channels
        assert torch.allclose(found[:, channel], expected)
    assert f"from 3 to {channels} channels" in " ".join(backbone.notes)


def test_a_grey_image_answers_as_its_three_channel_copy():
    kernel, grey = torch.randn(8, 3, 3, 3), torch.randn(1, 1, 9, 9)
    one = nn.functional.conv2d(grey, adapt_channels(kernel, 1))
    three = nn.functional.conv2d(grey.expand(1, 3, 9, 9), kernel)
    assert torch.allclose(one, three, atol=1e-5)


def edited(path, tmp_path, edit):
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, tmp_path / "edited.pth")
    return tmp_path / "edited.pth"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("features.3.conv.1.0.weight"), r"1 missing: features\.3\.conv\.1\.0\.weight"),
        (lambda s: s.update(surplus=torch.ones(1)), r"1 unexpected: surplus"),
        (
            lambda s: s.update({"features.1.conv.1.weight": torch.ones(16, 32, 3, 3)}),
            r"features\.1\.conv\.1\.weight \(expected 16x32x1x1, found 16x32x3x3\)",
        ),
        (lambda s: s.update({"features.0.0.weight": torch.ones(32, 5, 3, 3)}), r"expected 32x3x3x3, found 32x5x3x3"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_array(mobilenet_file, tmp_path, edit, message):
    file = edited(mobilenet_file, tmp_path, edit)
    with pytest.raises(UserError, match=message):
        build_backbone("mobilenet_v2", in_channels=3, weights=file)


def test_the_file_of_another_architecture_is_called_so(tmp_path):
    import timm

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"resnet18\.pth.*another architecture.*missing: features"):
        build_backbone("mobilenet_v2", in_channels=3, weights=tmp_path / "resnet18.pth")


# One of each way timm wraps a model: a list of layers, its own feature class, channels last, token maps.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet26", {}),
        ("mobilenetv3_small_050", {}),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False}),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    ],
)
def test_timm_backbones_load_the_classification_models_file(tmp_path, name, options):
    import timm

    torch.manual_seed(0)
    whole = timm.create_model(name, **options).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    ours = build_backbone(name, in_channels=3, weights=tmp_path / "whole.pth").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = ours(images)
        expected = whole.forward_intermediates(images, intermediates_only=True, norm=False)
    assert [tuple(x.shape) for x in found] == [
        (1, channels, 64 // stride, 64 // stride) for channels, stride in zip(ours.channels, ours.strides, strict=True)
    ]
    assert torch.allclose(found[-1], expected[-1], atol=1e-4)
    assert "left out" in ours.notes[0]


def test_timm_backbones_adapt_and_refuse_like_ours(tmp_path):
    import timm

    state = timm.create_model("resnet26").state_dict()
    torch.save(state, tmp_path / "whole.pth")
    grey = build_backbone("resnet26", in_channels=1, weights=tmp_path / "whole.pth")
    assert torch.allclose(grey.body.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"1 missing: layer2\.0\.conv1\.weight"):
        build_backbone("resnet26", in_channels=3, weights=tmp_path / "whole.pth")


def test_a_timm_model_of_one_size_is_refused():
    with pytest.raises(UserError, match="224x224 pixels only"):
        build_backbone("coatnet_0_rw_224", in_channels=3)


def test_misspelt_backbones_name_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean 'mobilenet_v2'"):
        build_backbone("mobilenetv_2", in_channels=3)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_parameter_is_in_exactly_one_stage(name):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=3)
    staged = [id(parameter) for stage in backbone.stages() for parameter in stage.parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in backbone.parameters())


def test_a_name_that_is_no_file_says_what_may_be_given():
    with pytest.raises(UserError, match=r"There is no file 'absent\.pth'.*path of a file"):
        build_backbone("mobilenet_v2", in_channels=3, weights="absent.pth")


@pytest.fixture
def server(mobilenet_file, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(mobilenet_file.parent))

        def log_message(self, *arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_weights_are_fetched_once_and_kept(server, monkeypatch, tmp_path):
    backbone = build_backbone("mobilenet_v2", in_channels=3, weights=f"{server}/mobilenet.pth")
    assert "306 arrays" in backbone.notes[0]
    assert [path.name for path in (tmp_path / "cache/hub/checkpoints").iterdir()] == ["mobilenet.pth"]

    def fail(*_: object) -> None:
        raise AssertionError("asked the server for a file that is in the cache")

    monkeypatch.setattr(download, "_open", fail)
    build_backbone("mobilenet_v2", in_channels=3, weights=f"{server}/mobilenet.pth")


def test_a_download_with_a_wrong_checksum_is_not_kept(server, mobilenet_file, tmp_path):
    (mobilenet_file.parent / "x-00000000.pth").write_bytes(b"other")
    with pytest.raises(RunError, match="promised is 00000000"):
        build_backbone("mobilenet_v2", in_channels=3, weights=f"{server}/x-00000000.pth")
    assert list((tmp_path / "cache/hub/checkpoints").iterdir()) == []


def test_an_absent_or_silent_server_says_in_seconds_how_to_give_a_file(server, monkeypatch):
    with pytest.raises(RunError, match=r"404.*give its path"):
        build_backbone("mobilenet_v2", in_channels=3, weights=f"{server}/absent.pth")
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    monkeypatch.setattr(download.urllib.request.OpenerDirector, "open", lambda *_, **__: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(RunError, match=r"'mobilenet_v2' could not be fetched.*no answer in 0.3 seconds.*give its path"):
        build_backbone("mobilenet_v2", in_channels=3, weights=f"{server}/silent.pth")
    assert time.monotonic() - start < 3


def test_weights_for_research_only_need_consent_before_anything_is_fetched(
    server, mobilenet_file, monkeypatch, tmp_path
):
    address = f"{server}/mobilenet.pth"
    entry = replace(BACKBONES["mobilenet_v2"], published=address, licence="research only", commercial=False)
    monkeypatch.setitem(BACKBONES, "mobilenet_v2", entry)
    for weights in ("pretrained", address):
        with pytest.raises(UserError, match=r"forbid commercial use \(research only\).*--accept-license"):
            build_backbone("mobilenet_v2", in_channels=3, weights=weights)
        with pytest.raises(UserError, match="forbid commercial use"):
            build_model("unet_mobilenet_v2", in_channels=3, classes=2, backbone_weights=weights)
    assert not (tmp_path / "cache").exists()
    model = build_model(
        "unet_mobilenet_v2", in_channels=3, classes=2, backbone_weights="pretrained", accept_license=True
    )
    assert "306 arrays" in model.notes[0]
    accepted = build_backbone("mobilenet_v2", in_channels=3, weights="pretrained", accept_license=True)
    assert "306 arrays" in accepted.notes[0]
    assert "306 arrays" in build_backbone("mobilenet_v2", in_channels=3, weights=mobilenet_file).notes[0]
    with pytest.raises(
        UserError, match="forbid commercial use"
    ):  # consent is given each time, as for `nuriwake import`
        build_backbone("mobilenet_v2", in_channels=3, weights="pretrained")


@pytest.mark.parametrize(
    ("source", "who", "licence"),
    [
        ("nvidia/mit-b0", "mit_b0", "NVIDIA"),
        ("https://huggingface.co/nvidia/mit-b3/resolve/main/pytorch_model.bin", "mit_b3", "NVIDIA"),
        ("nvidia/segformer-b0-finetuned-ade-512-512", "mit_b0", "NVIDIA"),
        ("timm/convnextv2_tiny.fcmae_ft_in22k_in1k", "convnextv2_tiny", "cc-by-nc-4.0"),
        ("timm/resnet18.a1_in1k", "resnet18.a1_in1k", None),
        ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "resnet18", None),
        ("somebody/something", "mit_b0", None),
    ],
)
def test_the_licences_that_forbid_commercial_use_are_known(source, who, licence):
    found = forbidding_licence(source, who)
    assert found is None if licence is None else licence in found


def test_the_table_says_whose_licence_forbids_commercial_use():
    for name, entry in BACKBONES.items():
        assert entry.commercial == ("no commercial use" not in (entry.licence or "")), name


def test_without_a_network_pretrained_says_how_to_give_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(download.urllib.request.OpenerDirector, "open", offline)
    for name in ("mobilenet_v2", "resnet10t"):
        with pytest.raises(RunError, match=rf"'{name}' could not be fetched.*not known.*give its path"):
            build_backbone(name, in_channels=3, weights="pretrained")
