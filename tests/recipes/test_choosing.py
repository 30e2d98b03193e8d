"""Recommending: the table is complete, wishes and data weigh as they should, and what is recommended can be built and typed."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nuriwake as nw
from nuriwake.cli import app, run
from nuriwake.core.errors import UserError
from nuriwake.core.runs import RunMasks
from nuriwake.engine.config import override
from nuriwake.engine.measure import Cost
from nuriwake.models import MODELS
from nuriwake.recipes import build_config, candidates, choosing
from nuriwake.recipes.candidates import CANDIDATES, GOALS, Candidate, Situation, ranked, remarks
from nuriwake.recipes.demo_data import draw_demo_data

LIGHT = (
    Candidate("unet_mobilenet_v2", 2, 1, 10, 0, "light"),
    Candidate("unet", 1, 2, 120, 0, "plain"),
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return draw_demo_data(tmp_path_factory.mktemp("data") / "the shapes", train=3, val=2, size=(64, 64))


@pytest.fixture
def light(monkeypatch):
    """Two models of which one is quickly built: the table of tasks stays, the processor is not tested."""
    monkeypatch.setitem(candidates.CANDIDATES, "semantic", LIGHT)
    monkeypatch.setitem(MODELS, "unet", MODELS["unet"].__class__(MODELS["unet"].build, "", "", defaults={"width": 4}))


def names(task="semantic", goal="balance", *, gpu=False, images=400, object_side=None):
    return [item.model for item in ranked(Situation(task, goal, gpu, images, object_side))]


def test_every_candidate_is_a_model_for_its_task():
    for task, row in CANDIDATES.items():
        assert len(row) >= 5
        assert len({item.model for item in row}) == len(row)
        for item in row:
            assert MODELS[item.model].task in (task, "any")
            assert 1 <= item.accuracy <= 5
            assert 1 <= item.cost <= 5
            assert item.why


@pytest.mark.parametrize("task", CANDIDATES)
def test_a_processor_is_given_light_models_and_a_gpu_better_ones(task):
    cost = {item.model: item.cost for item in CANDIDATES[task]}
    accuracy = {item.model: item.accuracy for item in CANDIDATES[task]}
    small, large = names(task), names(task, gpu=True, images=5000)
    assert max(cost[name] for name in small) <= 3
    assert sum(accuracy[name] for name in large) > sum(accuracy[name] for name in small)


@pytest.mark.parametrize("task", CANDIDATES)
def test_wishes_weigh(task):
    by_name = {item.model: item for item in CANDIDATES[task]}
    accurate = names(task, "accuracy", gpu=True, images=5000)
    assert by_name[accurate[0]].accuracy == max(item.accuracy for item in by_name.values())
    fast = names(task, "speed", gpu=True, images=5000)
    assert by_name[fast[0]].cost == min(item.cost for item in by_name.values())
    least = names(task, "small", gpu=True, images=5000)
    assert by_name[least[0]].megabytes <= sorted(item.megabytes for item in by_name.values())[2]
    few = names(task, "few-images", gpu=True, images=5000)
    assert by_name[few[0]].images <= 50


def test_small_objects_and_few_images_are_heard():
    assert names("instance", gpu=True, images=5000)[0] == "eomt_small"
    assert names("instance", gpu=True, images=5000, object_side=10)[1] == "mask_rcnn_r50_fpn"
    (solov2,) = [item for item in CANDIDATES["instance"] if item.model == "solov2_r50_fpn"]
    said = remarks(solov2, Situation("instance", "balance", False, 20, 10.0))
    assert said[1:] == (
        "wants about 1000 images or more, and there are 20",
        "is weaker with small objects, and these measure 10 pixels",
        "is slow to train without a GPU",
    )


def test_few_images_weigh_by_how_many_are_lacking():
    few = names(goal="few-images", gpu=True, images=30)
    assert few == ["unet_mobilenet_v2", "unet_resnet34", "deeplabv3plus_mobilenet_v2"]
    wants = {item.model: item.images for task in CANDIDATES.values() for item in task}
    for task in CANDIDATES:
        for goal in GOALS:
            for gpu in (False, True):
                for images in (8, 24, 30, 100):
                    best = names(task, goal, gpu=gpu, images=images)
                    assert 2 <= len(best) <= 3
                    # Beyond ten times what there is only a second one is named, where no other is left.
                    assert wants[best[0]] <= 10 * images
                    assert all(wants[name] <= max(10 * images, 200) for name in best), (task, goal, gpu, images)
    assert "mask2former_swin_tiny" in names(goal="accuracy", gpu=True, images=200)
    assert "mask2former_swin_tiny" not in names(goal="accuracy", gpu=True, images=90)


def test_images_unlike_photographs_and_large_ones_are_heard():
    grey = Situation("semantic", "few-images", True, 24, photographs=False)
    unet = ranked(grey)[0]
    assert unet.model == "unet"
    assert remarks(unet, grey)[1] == "these images are not like the photographs that pretrained weights have seen"
    assert names(goal="few-images", gpu=True, images=24)[0] == "unet_mobilenet_v2"
    plain = Situation("semantic", "balance", True, 5000, image_side=1024)
    large = replace(plain, image_side=6000)
    assert sum(item.cost for item in ranked(large)) < sum(item.cost for item in ranked(plain))
    heavy = CANDIDATES["semantic"][-1]
    assert "is slow over images of 6000 pixels, which it answers in tiles" in remarks(heavy, large)
    assert len(remarks(heavy, plain)) == 1


def test_what_weighs_nothing_is_said(shapes, light, monkeypatch):
    monkeypatch.setattr(choosing, "measure", lambda *_: Cost(0.5, 0))
    said = "\n".join(nw.recommend(shapes, device="cpu").lines())
    assert "took 0.500 s (its memory could not be seen) here" in said
    assert "times fewer pixels than the commonest; every model of these meets that by the weights of classes" in said
    instance = Situation("instance", "balance", False, 3)
    assert "count objects and not pixels" in choosing._weighing(instance)


# The first column of the README's table, in both languages -> the wish it means.
WISHES = {
    ("a good result soon, on a laptop", "手元の計算機で早くよい結果"): ("semantic", "balance", False, 400),
    ("accuracy, a GPU and many images", "GPU と多くの画像があり、精度がほしい"): ("semantic", "accuracy", True, 5000),
    ("few images, and a GPU", "画像が少なく、GPU がある"): ("semantic", "few-images", True, 50),
    ("objects one by one, from few images", "物体を一つずつ、少ない画像から"): ("instance", "few-images", True, 50),
    ("objects one by one, quickly", "物体を一つずつ、速く"): ("instance", "speed", False, 400),
    ("objects one by one, a GPU and many images", "物体を一つずつ、GPU と多くの画像がある"): (
        "instance",
        "accuracy",
        True,
        5000,
    ),
    ("objects and everything around them", "物体とその周りのすべて"): ("panoptic", "balance", False, 400),
    ("the same, with a GPU", "同じく、GPU がある"): ("panoptic", "balance", True, 400),
}
GREY = ("few grey images, of a microscope or a scanner", "少数の白黒画像（顕微鏡など）")


@pytest.mark.parametrize("language", [0, 1], ids=["README.md", "README.ja.md"])
def test_the_table_of_the_readme_says_what_is_recommended(language):
    text = (Path(__file__).parents[2] / ("README.md", "README.ja.md")[language]).read_text(encoding="utf-8")
    text = text[text.index("nuriwake recommend photos") :]
    text = text[: text.index("\n## ")]
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| [^|]+ \|$", text, re.MULTILINE))
    situations = {wish[language]: Situation(*situation) for wish, situation in WISHES.items()}
    situations[GREY[language]] = Situation("semantic", "few-images", True, 30, photographs=False)
    for wish, situation in situations.items():
        said = re.findall("`([^`]+)`", rows[wish])
        assert said == [item.model for item in ranked(situation)][: len(said)], wish
        assert said, wish
    for names in re.findall(r"`([a-z0-9_]+)`", " ".join(rows.values())):
        assert names in MODELS or any(model.startswith(names) for model in MODELS) or re.fullmatch(r"b\d", names), names


def test_what_is_recommended_is_built_and_timed_and_its_command_is_one(shapes, light, capsys):
    advice = nw.recommend(shapes, device="cpu")
    assert advice.task == "semantic"
    assert [item.model for item in advice.models] == ["unet_mobilenet_v2", "unet"]
    first, second = advice.models
    assert first.side == 64
    assert first.parameters > 2e6 > second.parameters
    assert first.cost.seconds > 0
    assert "BSD-3-Clause" in first.weights
    assert second.weights == "none is published"
    words = shlex.split(first.command)
    assert words[:3] == ["nuriwake", "train", str(shapes)]
    assert words[-6:] == ["--model.backbone-weights", "pretrained", "--device", "cpu", "--budget", "60m"]
    assert "--model.backbone-weights" not in second.command
    assert "--data.format" not in words
    assert run(["recommend", str(shapes), "--format", "mask_foldr"]) == 2
    assert "Did you mean 'mask_folder'" in " ".join(capsys.readouterr().err.split())
    assert run(["recommend", str(shapes), "--for", "speed", "--format", "mask_folder", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "--data.format mask_folder" in said
    assert "3 images to train on and 2 to validate, 64x64 pixels (median), 3 channels of uint8." in said
    assert "4 classes, none of them countable: semantic segmentation." in said
    assert "what counts most: speed" in said
    assert "1. unet_mobilenet_v2: light." in said


def test_the_command_can_be_typed(shapes, light):
    for item in nw.recommend(shapes, device="cpu").models:
        verb, bound, *_ = app.parse_args(shlex.split(item.command)[1:], exit_on_error=False, print_error=False)
        assert verb.__name__ == "train"
        assert (bound.arguments["data"], bound.arguments["model"]) == (shapes, item.model)


def test_objects_of_queries_are_told_their_task():
    config = override(build_config("the data", "mask2former_r50"), {"task": "instance", "device": "cuda"})
    words = shlex.split(choosing._command(config, Path("the data")))
    assert words[2] == "the data"
    assert words[-2:] == ["--task", "instance"]


def test_the_command_names_the_device_that_was_asked_for(shapes, light, monkeypatch):
    def device(name):
        words = shlex.split(nw.recommend(shapes, device=name, count=1).models[0].command)
        return words[words.index("--device") + 1] if "--device" in words else None

    assert (device("cpu"), device("auto")) == ("cpu", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device("gpu") == "cuda"


def test_the_command_accepts_a_licence_that_forbids_commercial_use():
    words = {
        name: choosing._command(override(build_config("data", name), {"device": "cuda"}), Path("data"))
        for name in ("segformer_b0", "unet_mobilenet_v2")
    }
    assert words["segformer_b0"].endswith("--model.backbone-weights pretrained --accept-license")
    assert "--accept-license" not in words["unet_mobilenet_v2"]


def test_a_device_that_is_not_here_is_not_timed(shapes, light, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    advice = nw.recommend(shapes, device="gpu")
    assert {item.cost for item in advice.models} == {None}
    assert any("Not timed" in line for line in advice.lines())
    assert "--budget" not in advice.models[0].command
    with pytest.raises(UserError, match="expected auto, cpu or gpu, found 'tpu'"):
        nw.recommend(shapes, device="tpu")
    with pytest.raises(UserError, match=r"there is no 'sped'.*Did you mean 'speed'"):
        nw.recommend(shapes, goal="sped")
    with pytest.raises(UserError, match="Did you mean 'semantic'"):
        nw.recommend(shapes, task="semantics")


def test_what_the_classes_tell_decides_the_task():
    space = nw.LabelSpace(("sky", "cell"), things=(False, True))
    assert choosing._natural_task(space) == "panoptic"
    assert choosing._natural_task(nw.LabelSpace(("a", "b"), things=(True, True))) == "instance"
    assert choosing._natural_task(nw.LabelSpace(("a", "b"))) == "semantic"


def test_objects_are_measured():
    dense = np.zeros((2, 40, 40), np.uint8)
    dense[0, :20, :20], dense[1, :10, :10] = 1, 1
    space = nw.LabelSpace(("cell",), things=(True,))
    target = nw.Instances(RunMasks.from_dense(dense), np.zeros(2, np.int32), space)

    class Data:  # all that is asked of it
        def records(self, split):
            return ["a", "b"]

        def read_target(self, record):
            return target

    assert choosing._object_side(Data()) == 15.0
