import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from nuriwake.core.files import write_text
from nuriwake.viz.figures import figure_bytes, save_figure
from nuriwake.viz.history import history_figure, history_figures, history_series, running_mean
from nuriwake.viz.plots import class_figure, confusion_figure, score_time_figure, threshold_figure

RECORDS = [
    {"kind": "train", "step": 1, "epoch": 0.1, "progress": 0.1, "rate": 1e-4, "loss": 2.0, "dice": 0.9, "cross": 1.1},
    {"kind": "train", "step": 2, "seconds": 3.0, "loss": float("nan"), "note": "text", "flag": True, "rate": 2e-4},
    {
        "kind": "evaluation",
        "step": 2,
        "scores": {"mean_iou": 0.5, "hd95": None},
        "class_iou": {"step": 0.5, "a/b": 0.25},
    },
    {"scores": {"mean_iou": 0.6}, "per_class": [1, 2], "images_per_second": 9.5},
]


def texts(figure) -> set[str]:
    from matplotlib.text import Text

    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(Text)}


def test_history_series_keeps_every_number_and_nothing_else():
    axis, series = history_series(RECORDS)
    assert axis == "step"
    found = {(line.group, line.name): (line.x.tolist(), line.y.tolist()) for line in series}
    assert found == {
        ("rate", "rate"): ([1, 2], [1e-4, 2e-4]),
        ("loss", "loss"): ([1], [2.0]),
        ("loss", "dice"): ([1], [0.9]),
        ("loss", "cross"): ([1], [1.1]),
        ("scores", "mean_iou"): ([2, 2], [0.5, 0.6]),  # a record without a step stands where the last one stood
        ("class_iou", "step"): ([2], [0.5]),
        ("class_iou", "a/b"): ([2], [0.25]),
        ("images_per_second", "images_per_second"): ([2], [9.5]),
    }


def test_history_without_steps_goes_by_epoch_or_by_record():
    assert history_series([{"epoch": 3, "loss": 1.0}])[0] == "epoch"
    axis, (line,) = history_series([{"loss": 1.0}, {"loss": 2.0}])
    assert (axis, line.x.tolist()) == ("record", [0, 1])


@pytest.mark.parametrize("records", [[], [{"loss": 1.0}], RECORDS])
def test_history_figure_of_much_and_of_nothing(records):
    assert figure_bytes(history_figure(records, best_step=2), "png", dpi=40)


def test_history_groups_and_their_legends():
    assert list(history_figures(RECORDS)) == ["loss", "scores", "rate", "class_iou", "images_per_second"]
    for count, legend in ((3, True), (12, True), (150, False)):
        figure = history_figures([{"class_iou": {f"_c{index}": 0.5 for index in range(count)}}])["class_iou"]
        assert len(figure.axes[0].get_lines()) == count
        assert (f"_c{count - 1}" in texts(figure)) is legend
        assert ("class_iou (150 lines)" in texts(figure)) is not legend


def test_running_mean_against_its_definition():
    values = np.random.default_rng(0).random(30)
    twin = [values[max(0, end - 6) : end + 1].mean() for end in range(30)]
    assert running_mean(values, 7) == pytest.approx(twin)


def test_class_bars_name_absent_classes():
    names = ["_background_", "核", "a$b$ \\bad{", "d"]
    figure = class_figure(names, {"IoU": [0.5, None, float("nan"), 0.0], "Dice": [0.6, None, 0.7, 0.0]})
    found = texts(figure)
    assert set(names) <= found
    assert "absent" in found
    assert "0.000" in found, "a score of zero is not the same as absent"
    with pytest.raises(ValueError, match="IoU"):
        class_figure(names, {"IoU": [0.5]})


@pytest.mark.parametrize("count", [1, 2, 150])
def test_confusion_rows_are_shares(count):
    random = np.random.default_rng(count)
    matrix = random.integers(1, 50, (count, count))
    if count > 2:
        matrix[1] = 0
    figure = confusion_figure(matrix, [f"クラス{index}" for index in range(count)])
    shown = np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)
    total = shown.sum(axis=1)
    assert np.allclose(np.delete(total, 1) if count > 2 else total, 1)
    if count > 2:
        assert np.isnan(shown[1]).all()
    names = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert len(names) == count
    assert figure_bytes(figure, "png", dpi=40)


def test_confusion_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        confusion_figure(np.zeros((3, 3)), ["a", "b"])


def test_threshold_and_time_figures_keep_underscored_names():
    thresholds = np.linspace(0, 1, 5)
    figure = threshold_figure(thresholds, {"_核": thresholds * (1 - thresholds)}, chosen={"_核": 0.5})
    assert "_核 (0.50)" in texts(figure)
    figure = score_time_figure({"_ours": [(1, 0.5), (2, 0.6)], "plain": []}, metric="Dice", target=0.94)
    assert {"_ours", "plain", "0.94"} <= texts(figure)


def test_same_figure_same_bytes():
    first, second = (figure_bytes(confusion_figure(np.eye(2), ["a", "核"]), "svg") for _ in range(2))
    assert first == second


def test_save_is_atomic_and_leaves_settings_alone(tmp_path):
    before = dict(mpl.rcParams)
    figure = confusion_figure(np.eye(2), ["a", "b"])
    path = save_figure(figure, tmp_path / "plots" / "history.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [item.name for item in path.parent.iterdir()] == ["history.png"]
    assert dict(mpl.rcParams) == before
    write_text(tmp_path / "kept.xyz", "old")
    with pytest.raises(ValueError, match="xyz"):
        save_figure(figure, tmp_path / "kept.xyz")
    assert (tmp_path / "kept.xyz").read_text() == "old"


def test_no_pyplot_is_imported():
    code = (
        "import sys, numpy as np; from nuriwake.viz import confusion_figure; "
        "confusion_figure(np.eye(2), ['a', 'b']); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
