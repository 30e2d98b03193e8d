"""Findings about files: missing, unreadable, cut off, of another format than they say, turned."""

from nuriwake.data.check.finding import Finding, some
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.survey import Survey, told

unreadable = told(
    "image_unreadable", "harmful", what="{count} [image|images] cannot be read.",
    why="Training stops, or learns from something else than the picture.",
    remedy="Copy or download them again, or take them out with their masks.",
)  # fmt: skip
truncated = told(
    "image_truncated", "harmful", what="{count} [image is|images are] cut off.",
    why="Many programs fill the missing part with grey without a word, and the model learns that grey.",
    remedy="Copy or download them again; --fix leaves them out with their truth.",
)  # fmt: skip
mask_unreadable = told(
    "mask_unreadable", "harmful", what="{count} [mask|masks] cannot be read.",
    why="There is no truth for these images.",
    remedy="Export them again as 8- or 16-bit PNG; --fix leaves them out with their images.",
)  # fmt: skip
not_finite = told(
    "image_not_finite", "harmful", what="{count} [image holds|images hold] values that are NaN or infinite.",
    why="One such value makes the loss nan.",
    remedy="Replace them by a number and give their pixels the mask value that is ignored.",
)  # fmt: skip
blank = told(
    "image_blank", "doubtful", what="{count} [image has|images have] one value everywhere.",
    why="There is nothing in them to learn from; often an export failed.",
    remedy="Look at them, and take out those that are no pictures.",
)  # fmt: skip
format_differs = told(
    "format_differs", "doubtful", what="{count} [image is of another format than its|images are of another format than their] name says.",
    why="nuriwake reads by content, but other tools refuse them or read them wrongly.",
    remedy="Rename them to what they are; --fix does.",
)  # fmt: skip
exif_rotation = told(
    "exif_rotation", "harmful", what="{count} [image carries an EXIF rotation that its|images carry an EXIF rotation that their] truth does not follow.",
    why="The image is turned upright when it is read and its truth is not, so that they lie across each other.",
    remedy="Turn the pixels upright and remove the EXIF tag before annotating (exiftran -ai, mogrify -auto-orient), or draw "
    "the truth again on the upright image.",
)  # fmt: skip
image_missing = told(
    "image_missing", "harmful", what="{count} [image is|images are] listed but not there.",
    why="Their annotations cannot be used.",
    remedy="Copy the images, or write 'unpaired: skip' in a YAML description; --fix leaves them out.",
)  # fmt: skip
images_unpaired = told(
    "images_unpaired", "harmful", what="{count} [image has|images have] no mask.",
    why="Nobody knows whether they are empty or were never annotated; opening the data set refuses them.",
    remedy="Add the masks (an all-background one where nothing is there), or write 'unpaired: skip' in a YAML description; "
    "--fix leaves them out.",
)  # fmt: skip
masks_unpaired = told(
    "masks_unpaired", "harmful", what="{count} [mask has|masks have] no image.",
    why="The work that went into them is lost, and often names were changed on one side only.",
    remedy="Give the image and its mask the same name, or write 'unpaired: skip'; --fix leaves them out.",
)  # fmt: skip
name_twice = told(
    "name_twice", "harmful", what="{count} [file shares its|files share their] name with another one (a.jpg and a.png).",
    why="It cannot be told which of the two belongs to the mask.",
    remedy="Rename or remove one of the two.",
)  # fmt: skip
listed_twice = told(
    "listed_twice", "harmful", what="{count} [name is|names are] in two lists of splits.",
    why="What is trained on is validated on: scores are better than the model is.",
    remedy="Take each name out of one of the lists.",
)  # fmt: skip
annotations_unreadable = told(
    "annotations_unreadable", "harmful", what="{count} annotation [file|files] cannot be read.",
    why="None of their annotations can be used.",
    remedy="Correct the file at the place named, or export it again.",
)  # fmt: skip
truth_unreadable = told(
    "truth_unreadable", "harmful", what="The truth of {count} [image|images] cannot be read.",
    why="Training stops when it comes to them.",
    remedy="Correct what each line names.",
)  # fmt: skip
refused = told(
    "refused", "harmful", what="{count} [file is|files are] refused.",
    why="Training stops when it comes to them.",
    remedy="Correct what each line names.",
)  # fmt: skip


def exif_present(survey: Survey) -> Finding | None:
    """Images with an EXIF orientation that the truth follows: a quarter turn that its sizes follow, too."""
    found = _turned(survey, decided=True)
    if not found:
        return None
    return Finding(
        "exif_present", "note", len(found), some([f.image for f in found]),
        "nuriwake turns images and masks upright when it reads them; tools that do not will see them turned.",
        "Nothing is needed here; turn the pixels themselves if other tools read these files.",
        what=f"{len(found):,} [image carries an EXIF orientation, and its|images carry an EXIF orientation, and their] truth fits.",
        samples=tuple(f.name for f in found[:10]),
    )  # fmt: skip


def exif_undecided(survey: Survey) -> Finding | None:
    """Images with an EXIF orientation of which the sizes do not tell whether the truth follows it."""
    found = _turned(survey, decided=False)
    if not found:
        return None
    return Finding(
        "exif_undecided", "doubtful", len(found), some([f.image for f in found]),
        "The image is turned upright when it is read; truth that was drawn on the pixels as they are stored lies across it then, and "
        "the sizes do not tell (the image is square, the turn is by 180 degrees or a mirror, or the truth says no size).",
        "Look at these images with their masks in the report (--report); where they do not fit, turn the pixels upright and remove "
        "the EXIF tag (exiftran -ai, mogrify -auto-orient), or draw the truth again.",
        what=f"{len(found):,} [image carries an EXIF orientation, and it cannot be told whether its|images carry an EXIF orientation, "
        "and it cannot be told whether their] truth follows it.",
        samples=tuple(f.name for f in found[:10]),
    )  # fmt: skip


def _turned(survey: Survey, *, decided: bool) -> list[Facts]:
    """Images with an EXIF orientation whose truth is not known to be wrong: those whose sizes tell that it fits, or the others."""
    wrong = {problem.sample for problem in survey.problems.get("exif_rotation", [])}
    found: list[Facts] = []
    for facts in survey.facts:
        header = facts.header
        if header is None or header.orientation == 1 or facts.name in wrong:
            continue
        quarter = header.orientation >= 5 and header.size[0] != header.size[1]
        # YOLO's coordinates are shares of the sides: they fit any size.
        if (quarter and survey.listing.format != "yolo") == decided:
            found.append(facts)
    return found
