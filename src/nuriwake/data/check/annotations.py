"""Findings about annotations in JSON: outlines, run lengths, boxes, ids, objects that stand twice; panoptic PNG."""

import numpy as np

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.survey import Survey, told

polygon_crosses = told(
    "polygon_crosses", "note", what="{count} [object has|objects have] a polygon that crosses itself.",
    why="Where it crosses, inside and outside change places (even-odd rule), so that parts of the object may be lost.",
    remedy="Look at the pictures; redraw those where something is missing.",
)  # fmt: skip
polygon_leaves = told(
    "polygon_leaves", "doubtful", what="{count} [object has|objects have] a polygon that leaves the image.",
    why="What lies outside is cut off; when many leave it, the image was cropped or resized after annotating.",
    remedy="Compare the size in the annotation tool with that of the image.",
)  # fmt: skip
polygon_outside = told(
    "polygon_outside", "harmful", what="{count} [object lies|objects lie] wholly outside [its|their] image.",
    why="The image was resized or cropped after annotating, or x and y are swapped: other objects will be wrong too.",
    remedy="Export the annotations for the images as they are; --fix leaves these objects out.",
)  # fmt: skip
polygon_points = told(
    "polygon_points", "harmful", what="{count} [polygon has|polygons have] fewer than three points.",
    why="They enclose nothing, and reading them is refused.",
    remedy="Delete them in the annotation tool; --fix leaves them out.",
)  # fmt: skip
no_area = told(
    "no_area", "doubtful", what="{count} [object has|objects have] no area, or a part of [it|them] has none.",
    why="An object without a pixel cannot be learned, and some losses turn nan on it.",
    remedy="Delete them in the annotation tool; --fix leaves out those without a pixel.",
)  # fmt: skip
box_disagrees = told(
    "box_disagrees", "doubtful", what="{count} [box does not fit its mask|boxes do not fit their masks].",
    why="Detection is trained on the box and the mask on the polygon: each pulls elsewhere.",
    remedy="Compute the boxes from the masks; --fix does.",
)  # fmt: skip
area_disagrees = told(
    "area_disagrees", "doubtful", what="{count} [area does not fit its mask|areas do not fit their masks].",
    why="COCO's evaluation sorts objects into small, medium and large ones by the area that is stated.",
    remedy="Compute the areas from the masks; --fix does.",
)  # fmt: skip
segmentation_unreadable = told(
    "segmentation_unreadable", "harmful", what="{count} [segmentation|segmentations] cannot be read.",
    why="Reading the image they belong to is refused.",
    remedy="Correct them in the file; --fix leaves them out.",
)  # fmt: skip
segmentation_missing = told(
    "segmentation_missing", "harmful", what="{count} [annotation has|annotations have] no segmentation.",
    why="They are boxes or key points, which say nothing of masks, and reading them is refused.",
    remedy="Take them out, or annotate their masks; --fix leaves them out.",
)  # fmt: skip
rle_size = told(
    "rle_size", "harmful", what="{count} run-length [mask has another size than its image, or does|masks have another size than their image, or do] not cover it.",
    why="Run lengths count pixels down the columns: at another width every pixel lies elsewhere.",
    remedy="Export the masks at the size of the image (size is [height, width]).",
)  # fmt: skip
crowd_flag = told(
    "crowd_flag", "harmful", what="{count} [annotation has|annotations have] an 'iscrowd' that is neither 0 nor 1.",
    why="Reading the file is refused.",
    remedy="Write 0 for single objects and 1 for regions of many.",
)  # fmt: skip
crowd_polygons = told(
    "crowd_polygons", "note", what="{count} crowd [region is drawn|regions are drawn] as polygons, where COCO has run lengths.",
    why="pycocotools counts them differently from a crowd region of run lengths.",
    remedy="Nothing is needed, if many objects together are meant; else set iscrowd to 0.",
)  # fmt: skip
annotation_ids_repeat = told(
    "annotation_ids_repeat", "harmful", what="{count} [annotation has|annotations have] an id that another one has.",
    why="COCO's evaluation matches by id and loses all but one; reading the file is refused.",
    remedy="Number the annotations anew; --fix does.",
)  # fmt: skip
image_ids_repeat = told(
    "image_ids_repeat", "harmful", what="{count} [image has|images have] an id that another one has.",
    why="The annotations of one image are put on the other.",
    remedy="Often two files were joined without numbering anew; join them again.",
)  # fmt: skip
image_listed_twice = told(
    "image_listed_twice", "harmful", what="{count} [image is|images are] listed twice.",
    why="Each entry carries a part of the annotations, so that both are wrong.",
    remedy="Put the annotations of both under one entry.",
)  # fmt: skip
image_unknown = told(
    "image_unknown", "harmful", what="{count} [annotation belongs|annotations belong] to an image that is not listed.",
    why="Reading the file is refused.",
    remedy="Add the images to 'images', or take the annotations out; --fix leaves them out.",
)  # fmt: skip
category_unknown = told(
    "category_unknown", "harmful", what="{count} [annotation has|annotations have] a category that is not listed.",
    why="They belong to no class; ids may be shifted by one.",
    remedy="Complete 'categories', or correct the ids.",
)  # fmt: skip
categories_wrong = told(
    "categories_wrong", "harmful", what="{count} [entry of 'categories' is not understood, or stands|entries of 'categories' are not understood, or stand] twice.",
    why="Without categories annotations have no class.",
    remedy='Write {"id": 1, "name": "cell"} for each class, each id and name once.',
)  # fmt: skip
annotation_twice = told(
    "annotation_twice", "doubtful", what="{count} [annotation stands|annotations stand] twice, exactly alike.",
    why="The object counts twice in training, and in validation one of the two is always missed.",
    remedy="Delete one of each pair; --fix does.",
)  # fmt: skip
object_twice = told(
    "object_twice", "doubtful", what="{count} [object is|objects are] annotated twice (IoU of 0.9 and more).",
    why="The object counts twice in training, and in validation one of the two is always missed.",
    remedy="Look at the pictures and delete one of each pair.",
)  # fmt: skip
panoptic_disagrees = told(
    "panoptic_disagrees", "harmful", what="{count} panoptic [PNG does not fit its|PNG do not fit their] JSON.",
    why="Segments without pixels, pixels without a segment or other areas: the two files belong to different versions.",
    remedy="Export both together; --fix writes areas anew and leaves out segments without a pixel, where nothing else is wrong.",
)  # fmt: skip


def crowd(survey: Survey) -> Finding | None:
    """Crowd regions, as a note: they are no objects."""
    found = [facts for facts in survey.facts if facts.crowd]
    count = sum(facts.crowd for facts in found)
    objects = sum(len(facts.objects) for facts in survey.facts)
    if not count:
        return None
    many = count > objects
    return Finding(
        "crowd", "doubtful" if many else "note", count, some([f"{facts.image}: {facts.crowd}" for facts in found]),
        "They are regions of many objects: no model learns from them, and in evaluation what lies in them counts nowhere."
        + (" Here they are more than the objects." if many else ""),
        "If single objects are marked as crowd, set iscrowd to 0." if many else "Nothing is needed.",
        what=f"{count:,} crowd [region|regions].", samples=tuple(facts.name for facts in found[:10]),
    )  # fmt: skip


def background_class(survey: Survey) -> Finding | None:
    """Objects whose class is the background."""
    found = [facts for facts in survey.facts if survey.listing.truth == "coco" and -1 in survey.labels(facts)]
    if not found:
        return None
    return Finding(
        "background_class", "harmful", len(found), some([facts.image for facts in found]),
        "Background is no class of objects; opening the data set refuses it.",
        "Take these objects out, or rename the category.",
        what=f"{len(found):,} [image has|images have] objects of the class 'background'.", samples=tuple(f.name for f in found[:10]),
    )  # fmt: skip


def nothing_annotated(survey: Survey) -> Finding | None:
    """No object in all of training."""
    train = [facts for facts in survey.facts if facts.split not in ("val", "test") and facts.known]
    if survey.listing.truth != "coco" or not train or any(len(facts.objects) for facts in train):
        return None
    return Finding(
        "nothing_annotated", "harmful", len(train), some([facts.image for facts in train]),
        "There is nothing to learn from.", "Look whether image ids of annotations and images fit together.",
        what="No image to train on has an object.", samples=tuple(np.array([f.name for f in train[:10]]).tolist()),
    )  # fmt: skip
