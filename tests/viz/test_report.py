import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import IGNORE, LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.viz.report import Choice, Example, Headline, ReportData, render_report, write_report

EVIL = '<script>alert("x")</script>'
QUOTE = '" onerror="alert(1)'
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "div", "span", "b", "ul", "li",
    "table", "thead", "tbody", "tr", "th", "td", "img", "figure", "figcaption", "details", "summary", "pre",
}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "style", "src", "alt"}


class Page(HTMLParser):
    """Every tag, attribute and text of a page; fails on tags left open."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(document)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report_data(name: str = "核", **changes) -> ReportData:
    space = LabelSpace(("background", name, "membrane"))
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 4:20], labels[16:, :8], labels[0] = 1, 2, IGNORE
    truth, prediction = SemanticMap(labels, space), SemanticMap(np.roll(labels, 2, 0), space)
    image = np.full((24, 32, 3), 90, np.uint8)
    example = Example.draw(f"val/{name}", image, truth, prediction=prediction, score=0.5)
    values = {
        "title": f"Run {name}",
        "space": space,
        "summary": name,
        "headlines": (Headline(name, name, name),),
        "choices": (Choice(name, name, name),),
        "configuration": {name: [name, 1e-3, None]},
        "history": [{"step": 1, "loss": 1.0, name: 0.5}, {"step": 2, "loss": 0.9, name: 0.6}],
        "best_step": 2,
        "class_scores": {"IoU": [0.9, None, 0.1], name: [0.5, float("nan"), 0.2]},
        "class_counts": {"objects": [0, 3, 1200]},
        "class_pixels": (5000, 0, 12),
        "confusion": np.array([[9, 1, 0], [0, 0, 0], [1, 1, 8]]),
        "best": (example,),
        "worst": (example,),
        "environment": {name: name},
        "licence": name,
        "notes": (name,),
    }
    return ReportData(**{**values, **changes})


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(report_data()))


def test_report_says_what_it_was_given(page):
    joined = " ".join(page.texts)
    for part in ("Run 核", "Worst validation images", "absent", "5,000", "membrane", "Difference", "0.500", "0.001"):
        assert part in joined
    pictures = [value for name, value in page.attributes if name == "src"]
    assert len(pictures) == 2 * 4 + 2 + 1 + 1  # examples, two history plots (loss, score), bars, confusion


@pytest.mark.parametrize("name", [EVIL, QUOTE, "</style><b>", "a & b &amp; <", "{x}$y$%s"])
def test_names_from_files_stay_text(name):
    document = render_report(report_data(name))
    page = Page(document)
    assert page.tags <= TAGS
    assert {attribute for attribute, _ in page.attributes} <= ATTRIBUTES
    assert name in page.texts, "the name is shown as it is"
    assert f"Truth of val/{name}" in [value for attribute, value in page.attributes if attribute == "alt"]


def test_counts_are_whole_and_classes_that_nobody_saw_stand_aside():
    space = LabelSpace(tuple(f"class {index}" for index in range(133)))
    scores, counts = [None] * 133, [0] * 133
    scores[7], counts[7], counts[9], scores[11] = 0.25, 1200, 3, 0.0
    data = ReportData(title="t", space=space, class_scores={"ap": scores}, class_counts={"objects": counts})
    texts = Page(render_report(data)).texts
    start, stop = texts.index("objects"), next(i for i, part in enumerate(texts) if part.startswith("Neither"))
    cells = [part for part in texts[start + 1 : stop] if part.strip()]
    assert cells == ["class 7", "0.250", "1,200", "class 9", "absent", "3", "class 11", "0.000", "0"]
    assert "(130 of 133): class 0, class 1, " in texts[stop]


def test_report_loads_nothing(page):
    for name, value in page.attributes:
        if name == "src":
            assert value.startswith("data:image/")
    document = render_report(report_data())
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", document)
    assert not re.search(r"url\((?!\"data:)", document)
    assert "default-src 'none'" in document


def test_japanese_text_brings_its_font():
    assert "@font-face" in render_report(report_data("核"))
    assert "@font-face" not in render_report(ReportData(title="plain", space=LabelSpace(("a", "b"))))


def test_empty_parts_are_left_out(tmp_path):
    data = ReportData(title="just a title", space=LabelSpace(("a", "b")))
    path = write_report(tmp_path / "run" / "report.html", data)
    page = Page(path.read_text(encoding="utf-8"))
    assert "h2" not in page.tags
    assert "just a title" in page.texts


def test_multi_label_space_has_no_confusion():
    space = LabelSpace(("a", "b"), exclusive=False)
    layers = SemanticMap(np.ones((20, 20, 2), np.uint8), space)
    example = Example.draw("x", np.zeros((20, 20, 1), np.uint16), layers, prediction=layers)
    document = render_report(ReportData(title="t", space=space, class_scores={"Dice": [1.0, 1.0]}, worst=(example,)))
    assert "Confusion" not in document
    assert "mean Dice 1.000" in document


def test_an_example_keeps_nothing_of_a_large_image():
    space = LabelSpace(("a", "b"))
    labels = SemanticMap(np.ones((900, 600), np.uint8), space)
    tiles = Example.draw("x", np.zeros((900, 600, 3), np.uint8), labels, prediction=labels).tiles
    assert {picture.shape for picture in tiles.pictures.values()} == {(420, 280, 3)}
    assert all(picture.base is None or picture.base.size <= 420 * 420 * 3 for picture in tiles.pictures.values())


def test_what_does_not_fit_the_label_space_is_refused():
    with pytest.raises(UserError, match="2 values for 3 classes"):
        report_data(class_scores={"IoU": [0.1, 0.2]})
    with pytest.raises(UserError, match=r"\(2, 2\)"):
        report_data(confusion=np.zeros((2, 2)))


def test_same_data_same_report():
    assert render_report(report_data()) == render_report(report_data())
