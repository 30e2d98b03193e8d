"""Findings about masks: how their values code classes, and what exports and resizing did to them."""

from collections import Counter

import numpy as np

from nuriwake.core.labels import IGNORE, palette
from nuriwake.data.check.finding import Finding
from nuriwake.data.check.looking import Facts
from nuriwake.data.check.survey import Survey, of_masks, told
from nuriwake.data.deciding import LEAST_EXTREMES, Decision, shared_colour
from nuriwake.data.deciding_layers import yes_no_or_ignore
from nuriwake.data.observing import unpack

size_differs = told(
    "size_differs", "harmful", what="{count} [image and its truth differ|images and their truth differ] in size.",
    why="Every pixel of the truth lies on the wrong pixel of the image.",
    remedy="Export the masks at the size of the images, or find out which of the two was resized or turned.",
)  # fmt: skip
objects_disagree = told(
    "objects_disagree", "harmful", what="{count} [mask of objects does|masks of objects do] not fit the mask of classes beside [it|them].",
    why="An object needs exactly one class.",
    remedy="Export SegmentationClass/ and SegmentationObject/ from the same annotations, or take SegmentationObject/ away.",
)  # fmt: skip


_CUT = " These are black and white and are read with a threshold of 128."


def zero_255(survey: Survey) -> Finding | None:
    """Masks of 0 and 255: read as two classes; where 255 is ignored or classes are more, all of the foreground is lost."""
    found = [facts for facts in _single(survey) if set(_values(facts)) == {0, 255} and not facts.masks[0].coloured]
    others = {v for facts in _single(survey) for v in _values(facts)} - {0, 255}
    if not found or others or survey.listing.layered:
        return None
    classes = survey.listing.classes
    lost = len(classes.names) > 2 or IGNORE in (classes.ignore or ()) or (survey.listing.truth == "voc")
    return of_masks(
        "zero_255", "harmful" if lost else "note", found,
        what=f"{len(found):,} [mask holds|masks hold] 0 and 255 and nothing else.",
        why="255 means 'ignore' here, so that only background is left to learn: IoU 0."
        if lost else "They are read as background and foreground; tools that expect 0 and 1, or ignore 255, see no foreground.",
        remedy="Write 1 in place of 255 (--fix does where there are two classes), or say what 255 is in the field 'values' of a "
        "YAML description ({0: background, 255: name})." if lost else "Nothing is needed here; --fix writes 0 and 1.",
    )  # fmt: skip


def rgb_colours(survey: Survey) -> Finding | None:
    """Masks that code classes by colour where nobody says which colour is what."""
    found = [facts for facts in survey.facts if any(mask.coloured for mask in facts.masks)]
    if not found or (
        isinstance(survey.decision, Decision) and survey.decision.coding and survey.decision.coding.colours
    ):
        return None
    if not survey.listing.layered and isinstance(survey.decision, str) and shared_colour(survey.listing.classes):
        return None  # `undecided` says it
    known = {*palette(256), *survey.listing.classes.colours.values()}
    counts: Counter[int] = Counter()
    for facts in found:
        for mask in facts.masks:
            counts.update(dict(zip(mask.values.tolist(), mask.counts.tolist(), strict=True)))
    colours = ", ".join(str(list(unpack(value))) for value, _ in counts.most_common(8))
    voc = all(unpack(value) in known for value in counts)
    if survey.listing.truth == "voc" and voc:
        return None
    unnamed = not survey.listing.classes.colours
    return of_masks(
        "rgb_colours", "harmful", found,
        what=f"{len(found):,} [mask is an RGB picture|masks are RGB pictures] with {len(counts):,} colours ({colours}).",
        why="A class is a number; " + ("which colour is which class is said nowhere." if unnamed else "some stand for no class."),
        remedy='Say it in classes.json: {"classes": ["road", ...], "colours": {"road": [128, 64, 128], ...}}, or export label '
        "masks (8-bit, one channel).",
    )  # fmt: skip


def jpeg(survey: Survey) -> Finding | None:
    """Masks stored as JPEG."""
    found = [facts for facts in survey.facts if any(mask.header.kind == "jpeg" for mask in facts.masks)]
    if not found:
        return None
    masks = [mask for facts in found for mask in facts.masks]
    plain = sum(mask.ends.near for mask in masks) >= LEAST_EXTREMES * sum(mask.pixels for mask in masks)
    layered, told_so = survey.listing.layered, survey.listing.threshold is not None
    cut = plain and not layered
    return of_masks(
        "jpeg_masks", "doubtful" if cut or (plain and told_so) else "harmful", found,
        what=f"{len(found):,} [mask is|masks are] JPEG, with up to {max(len(mask.values) for mask in masks)} values.",
        why="JPEG changes values around every edge (ringing), so that a label becomes another label."
        + _CUT * cut,
        remedy="Export them as PNG" + ("; --fix writes them with the threshold." if cut else
        "; what JPEG lost cannot be computed back with certainty."),
    )  # fmt: skip


def ringing(survey: Survey) -> Finding | None:
    """PNG masks that were JPEG once: many values, nearly all near a few."""
    found = [
        facts for facts in _grey(survey)
        if facts.masks[0].header.kind != "jpeg" and len(_values(facts)) > 12 and _clustered(facts) and not _smooth(facts)
    ]  # fmt: skip
    if not found or survey.listing.threshold is not None or survey.listing.instance_ids:
        return None
    cut = _is_cut(survey)
    return of_masks(
        "ringing", "doubtful" if cut else "harmful", found,
        what=f"{len(found):,} [mask holds|masks hold] values scattered around a few, as JPEG leaves them.",
        why="They were JPEG once: a label became other labels around every edge." + _CUT * cut,
        remedy="Export them again as PNG from the annotations; for black and white masks write 'threshold: 128' in a YAML "
        "description.",
    )  # fmt: skip


def anti_aliased(survey: Survey) -> Finding | None:
    """Masks whose edges are smoothed: values that stand only between lower and higher ones."""
    found = [facts for facts in _grey(survey) if facts.masks[0].header.kind != "jpeg" and _smooth(facts)]
    if not found or survey.listing.threshold is not None or survey.listing.instance_ids:
        return None
    values = max(len(_values(facts)) for facts in found)
    cut = _is_cut(survey)
    return of_masks(
        "anti_aliased", "doubtful" if cut else "harmful", found,
        what=f"{len(found):,} [mask has|masks have] smoothed edges, up to {values} values in one mask.",
        why="Between class 0 and class 8 the edge passes through 1 to 7: every object gets a rim of other classes." + _CUT * cut,
        remedy="Draw and resize masks with nearest neighbour and without anti-aliasing; for two classes write 'threshold: 128' "
        "in a YAML description.",
    )  # fmt: skip


def beyond_classes(survey: Survey) -> Finding | None:
    """Values that the class list does not know. The shifted ones have a finding of their own."""
    names, classes = survey.listing.classes.names, survey.listing.classes
    if (
        not names
        or classes.values
        or classes.colours
        or survey.listing.layered
        or isinstance(survey.decision, Decision)
    ):
        return None
    if shifted(survey) or zero_255(survey) or rgb_colours(survey) or jpeg(survey):
        return None
    known = {*range(len(names)), *(classes.ignore if classes.ignore is not None else (IGNORE,))}
    found = [facts for facts in _single(survey) if set(_values(facts)) - known]
    if not found:
        return None
    values = sorted({value for facts in found for value in _values(facts)} - known)
    return of_masks(
        "beyond_classes", "harmful", found,
        what=f"{len(found):,} [mask holds|masks hold] values beyond the {len(names)} classes of {classes.source}: {_few(values)}.",
        why="They belong to no class; other tools crash on the GPU or train on another class.",
        remedy="Correct the masks or complete the class list, or say what the values mean in the fields 'values' and 'ignore' of "
        "a YAML description.",
    )  # fmt: skip


def shifted(survey: Survey) -> Finding | None:
    """Labels that count from 1."""
    names, classes = survey.listing.classes.names, survey.listing.classes
    found = _single(survey)
    values = {value for facts in found for value in _values(facts)} - {IGNORE}
    if not found or 0 in values or not values or classes.values or any(facts.masks[0].coloured for facts in found):
        return None
    told_so = bool(names) and max(values) == len(names)
    contiguous = not names and len(values) >= 3 and values == set(range(1, len(values) + 1))
    if not told_so and not contiguous:
        return None
    return of_masks(
        "shifted", "harmful" if told_so else "doubtful", found,
        what=f"Labels run from 1 to {max(values)} and 0 is never used" + (f", with {len(names)} classes." if names else "."),
        why="Labels count from 0: every class is taken for the next one, and the last one is beyond the classes."
        if told_so else "Labels count from 0; a class that is never seen would be learned, or the ids are shifted by one.",
        remedy="Subtract 1 from every label but 255; --fix does." if told_so else "Name the classes in classes.json, or subtract 1.",
    )  # fmt: skip


def all_background(survey: Survey) -> Finding | None:
    """Masks with nothing but class 0, or images without any object."""
    known = [facts for facts in survey.facts if facts.known]
    background = survey.space is None or survey.space.has_background or survey.space.binary
    objects = survey.listing.truth == "coco" or (survey.space is not None and all(survey.space.things))
    if objects:
        found = [facts for facts in known if not survey.labels(facts) or set(survey.labels(facts)) <= {-1}]
    elif background:
        found = [facts for facts in known if survey.labels(facts) and set(survey.labels(facts)) <= {0}]
    else:
        return None
    if not found:
        return None
    every, most = len(found) == len(known), len(found) > len(known) / 2
    what = "[has|have] no object" if objects else "[is|are] all background"
    return of_masks(
        "all_background", "harmful" if every else "doubtful" if most else "note", found,
        what=f"{len(found):,} of {len(known):,} {'images' if objects else 'masks'} {what}.",
        why="There is nothing to learn: the best model says background everywhere." if every else
        "A model may learn to say nothing at all." if most else "Some are good: they teach the model where nothing is.",
        remedy="Look at the masks: were they exported empty, or with another value than the class list means?" if most else
        "Nothing is needed, if these images are truly empty.",
    )  # fmt: skip


def all_ignore(survey: Survey) -> Finding | None:
    """Masks in which no pixel counts."""
    known = [facts for facts in survey.facts if facts.known and survey.listing.truth != "coco"]
    found = [facts for facts in known if facts.ignored == 1.0 or set(survey.labels(facts)) == {IGNORE}]
    if not found:
        return None
    return of_masks(
        "all_ignore", "harmful" if len(found) > len(known) / 2 else "doubtful", found,
        what=f"{len(found):,} of {len(known):,} masks [is|are] ignore everywhere.",
        why="No pixel of them counts: they cost time, and batches of them alone have no loss.",
        remedy="Look at the masks: does the foreground have the value 255? Then say so in the field 'values'; else take them out.",
    )  # fmt: skip


def palette_and_grey(survey: Survey) -> Finding | None:
    """Some masks with a palette, some grey."""
    found = [facts for facts in _single(survey) if not facts.masks[0].coloured]
    with_palette = [facts for facts in found if facts.masks[0].header.palette]
    grey = [facts for facts in found if not facts.masks[0].header.palette]
    if not with_palette or not grey:
        return None
    indices = {value for facts in with_palette for value in _values(facts)}
    strange = {value for facts in grey for value in _values(facts)} - indices
    few, _ = sorted((with_palette, grey), key=len)
    return of_masks(
        "palette_and_grey", "harmful" if len(strange) > 1 and max(strange) > max(indices - {IGNORE}, default=0) else "doubtful",
        few,
        what=f"{len(with_palette):,} masks have a palette and {len(grey):,} are grey.",
        why="Palette masks are read by index, grey ones by value; grey ones made from a picture of the palette hold the "
        f"brightness of the colours in place of labels{f' (here {_few(sorted(strange))})' if strange else ''}.",
        remedy="Export all masks in one way. If the grey values are labels, nothing is wrong.",
    )  # fmt: skip


def cut_to_8_bit(survey: Survey) -> Finding | None:
    """Ids of objects that were cut off at 255 or counted round it, and 8-bit labels stretched to 16 bits."""
    masks = _single(survey)
    wide = [facts for facts in masks if facts.masks[0].header.bits == 16]
    stretched = [
        f
        for f in wide
        if len(_values(f)) > 1 and all(v % 256 == 0 or v % 257 == 0 for v in _values(f)) and max(_values(f)) > 255
    ]
    if stretched and not all(set(_values(facts)) <= {0, 65535} for facts in stretched):
        return of_masks(
            "cut_to_8_bit", "harmful", stretched,
            what=f"{len(stretched):,} [mask is|masks are] 16 bit, with values that are all multiples of 256 or 257.",
            why="8-bit labels were stretched to 16 bits: label 1 is 257 or 256 now.",
            remedy="Divide by 257 (or 256), or export 8-bit masks.",
        )  # fmt: skip
    full = [
        f
        for f in masks
        if f.masks[0].header.bits == 8
        and len(_values(f)) >= 200
        and max(_values(f)) == 255
        and not _smooth(f)
        and not _clustered(f)
    ]
    narrow = [f for f in masks if f.masks[0].header.bits == 8 and not f.masks[0].coloured] if wide else []
    highest = max((max(_values(facts), default=0) for facts in wide), default=0)
    mixed = (
        narrow
        if wide and highest > 255 and len(narrow) < len(wide) and any(max(_values(f), default=0) > 1 for f in narrow)
        else []
    )
    if not full and not mixed:
        return None
    return of_masks(
        "cut_to_8_bit", "harmful" if full else "doubtful", full or mixed,
        what=f"{len(full or mixed):,} [mask is|masks are] 8 bit "
        + ("and use (nearly) every value up to 255." if full else f"where others are 16 bit with ids up to {highest:,}."),
        why="8 bits number 255 objects: the 256th becomes background, or two objects share a number.",
        remedy="Export the masks again as 16-bit PNG or TIFF.",
    )  # fmt: skip


def undecided(survey: Survey) -> Finding | None:
    """Whatever else keeps the values of masks from being understood."""
    text = survey.decision
    if not isinstance(text, str) or any(
        check(survey) for check in (rgb_colours, jpeg, beyond_classes, shifted, zero_255, anti_aliased, ringing)
    ):
        return None
    return Finding(
        "undecided", "harmful", 1, (text,), "Training refuses the masks as they are.", "Do what the sentence says.",
        what="How the values of the masks code classes cannot be told.",
    )  # fmt: skip


def mixed_coding(survey: Survey) -> Finding | None:
    """Some masks coded by colour, some by grey value."""
    coloured = [facts for facts in survey.facts if any(mask.coloured for mask in facts.masks)]
    plain = [facts for facts in survey.facts if any(not mask.three for mask in facts.masks)]
    if not coloured or not plain:
        return None
    few = min((coloured, plain), key=len)
    return of_masks(
        "mixed_coding", "harmful", few,
        what=f"{len(coloured):,} masks code classes by colour and {len(plain):,} by grey value.",
        why="One rule cannot read both.",
        remedy="Export all masks in one way.",
    )  # fmt: skip


def layers(survey: Survey) -> Finding | None:
    """Masks of one class each that hold more than yes, no and ignore."""
    listing = survey.listing
    if not listing.layered:
        return None
    values = {value for mask in survey.masks if not mask.coloured for value in mask.values.tolist()}
    known = values if listing.threshold is not None else set(yes_no_or_ignore(values, listing.classes.ignore))
    found = [f for f in survey.facts if any(m.coloured or set(m.values.tolist()) - known for m in f.masks)]
    if not found:
        return None
    void = "" if listing.classes.ignore is None else " and what 'ignore' names"
    return of_masks(
        "layers", "harmful", found,
        what=f"{len(found):,} [image has|images have] masks of one class that hold {'colours' if values <= known else _few(sorted(values - known))}.",
        why=f"A mask of one class says yes or no: 0 and 255, or 0 and 1{void or ' with 255 for ignore'}.",
        remedy="Save them as grey masks of such values, or write 'threshold: 128' in a YAML description where masks are grey pictures (smoothed, JPEG): "
        "from this value on it is yes.",
    )  # fmt: skip


def _is_cut(survey: Survey) -> bool:
    """Whether all masks are read with a threshold that was found to fit."""
    decision = survey.decision
    return isinstance(decision, Decision) and decision.coding is not None and decision.coding.threshold is not None


def _single(survey: Survey) -> list[Facts]:
    """The entries with one mask of classes."""
    return [] if survey.listing.layered else [facts for facts in survey.facts if len(facts.masks) == 1]


def _grey(survey: Survey) -> list[Facts]:
    masks = [f for f in _single(survey) if not f.masks[0].coloured and f.masks[0].header.bits <= 8]
    return [facts for facts in masks if not facts.masks[0].header.palette]


def _values(facts: Facts) -> list[int]:
    return facts.masks[0].values.tolist()


def _smooth(facts: Facts) -> bool:
    """At least 4 values, and half of all, stand (nine pixels in ten) between lower and higher neighbours."""
    mask = facts.masks[0]
    blends = int((mask.between >= 0.9 * mask.counts).sum())
    return blends >= 4 and blends >= 0.5 * len(mask.values)


def _clustered(facts: Facts) -> bool:
    """97 % of the pixels lie on at most 8 values, further apart than 16, and yet all but a few values lie near these."""
    mask = facts.masks[0]
    order = np.argsort(-mask.counts)
    centres: list[int] = []
    for value in mask.values[order][:64].tolist():
        if all(abs(value - centre) > 16 for centre in centres) and len(centres) < 8:
            centres.append(value)
    main = mask.counts[np.isin(mask.values, centres)].sum()
    near = np.abs(mask.values[:, None] - np.array(centres)[None]).min(axis=1) <= 16
    few = len(centres) <= max(3, len(mask.values) // 6)
    return bool(few and main >= 0.5 * mask.pixels and mask.counts[near].sum() >= 0.97 * mask.pixels)


def _few(values: list[int]) -> str:
    return ", ".join(map(str, values[:12])) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
