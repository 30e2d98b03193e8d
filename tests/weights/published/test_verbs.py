"""Published files of the models of objects and segments through the two verbs: `import`, then `predict` on a photograph."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nuriwake.cli import run

FILES = {
    "yolact__yolact_resnet50": "yolact_resnet50_54_800000.pth",
    "mmdet__solov2-light_r50_fpn": "solov2_light_r50_fpn_3x_coco.pth",
    "transformers__mask2former_resnet50": "model.safetensors",
    "transformers__eomt_small_256": "model.safetensors",
}
LEFT_OUT = {"transformers__mask2former_resnet50": 1, "transformers__eomt_small_256": 1}
"""The weights of the classes in the loss, which are no part of the model."""

CONFIGS = {"transformers__eomt_small_256": {"model_type": "eomt", "num_attention_heads": 6}}


def write(folder, name, arrays):
    """The published file of these arrays; where a configuration lies beside it, the folder."""
    state = {key: torch.from_numpy(item.copy()) for key, item in arrays.items()}
    file = folder / FILES[name]
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"meta": {}, "state_dict": state} if name.startswith("mmdet") else state, file)
    if name in CONFIGS:
        (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
        return folder
    return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There are more")
@pytest.mark.parametrize("name", FILES)
def test_import_and_predict_a_photograph(name, parity, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(parity))
    arrays = __import__("formula").state_dict(parity / f"{name}.json")
    sys.modules.pop("formula", None)
    bundle, out = tmp_path / "bundle.safetensors", tmp_path / "out"
    assert run(["import", str(write(tmp_path, name, arrays)), "--out", str(bundle)]) == 0
    left = LEFT_OUT.get(name, 0)
    assert f"{len(arrays) - left} used, {left} left out" in " ".join(capsys.readouterr().out.split())
    photograph = sorted((shared / "data/coco128/images").rglob("*.jpg"))[0]
    assert run(["predict", str(bundle), str(photograph), "--out", str(out), "--score-threshold", "0"]) == 0
    (entry,) = json.loads((out / "predictions.json").read_text())["images"]
    with Image.open(photograph) as image:
        size = [image.height, image.width]
    assert entry["size"] == size
    assert (out / entry["overlay"]).is_file()
    assert list(np.asarray(Image.open(out / entry["labels"][0])).shape[:2]) == size
    if (out / "coco_results.json").is_file():
        assert entry["image_id"] == int(photograph.stem)
        known = {row["id"] for row in json.loads(_annotations(shared).read_text())["categories"]}
        rows = json.loads((out / "coco_results.json").read_text())
        assert rows
        assert {row["category_id"] for row in rows} <= known
    else:
        # The formula's Mask2Former is sure of no pixel of a photograph.
        assert bool(entry["segments"]) == (name != "transformers__mask2former_resnet50")


def _annotations(shared):
    return shared / "data/coco128/annotations/instances_train2017.json"
