"""The 19 classes that Cityscapes evaluates, as cityscapesscripts/helpers/labels.py has them."""

from typing import NamedTuple

from nuriwake.core.labels import Colour, LabelSpace


class CityClass(NamedTuple):
    """One evaluated class: its label id in the files, whether objects are told apart, its colour, its group."""

    name: str
    label_id: int
    thing: bool
    colour: Colour
    group: str


CLASSES = (
    CityClass("road", 7, False, (128, 64, 128), "flat"),
    CityClass("sidewalk", 8, False, (244, 35, 232), "flat"),
    CityClass("building", 11, False, (70, 70, 70), "construction"),
    CityClass("wall", 12, False, (102, 102, 156), "construction"),
    CityClass("fence", 13, False, (190, 153, 153), "construction"),
    CityClass("pole", 17, False, (153, 153, 153), "object"),
    CityClass("traffic light", 19, False, (250, 170, 30), "object"),
    CityClass("traffic sign", 20, False, (220, 220, 0), "object"),
    CityClass("vegetation", 21, False, (107, 142, 35), "nature"),
    CityClass("terrain", 22, False, (152, 251, 152), "nature"),
    CityClass("sky", 23, False, (70, 130, 180), "sky"),
    CityClass("person", 24, True, (220, 20, 60), "human"),
    CityClass("rider", 25, True, (255, 0, 0), "human"),
    CityClass("car", 26, True, (0, 0, 142), "vehicle"),
    CityClass("truck", 27, True, (0, 0, 70), "vehicle"),
    CityClass("bus", 28, True, (0, 60, 100), "vehicle"),
    CityClass("train", 31, True, (0, 80, 100), "vehicle"),
    CityClass("motorcycle", 32, True, (0, 0, 230), "vehicle"),
    CityClass("bicycle", 33, True, (119, 11, 32), "vehicle"),
)
SPACE = LabelSpace(
    tuple(item.name for item in CLASSES),
    tuple(item.thing for item in CLASSES),
    tuple(item.colour for item in CLASSES),
)
