"""The ids that a data set has for its classes follow the classes into every view."""

import pytest

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.serial import from_plain, to_plain
from nuriwake.core.views import instance_space, semantic_space

SPACE = LabelSpace(("cat", "sky", "dog"), (True, False, True), ids=(3, 90, 17))


def test_ids_follow_their_classes():
    assert instance_space(SPACE).ids == (3, 17)
    things = LabelSpace(("cat", "dog"), (True, True), ids=(3, 17))
    assert semantic_space(things).ids == (0, 3, 17)
    assert semantic_space(LabelSpace(("cat", "dog"), (True, True), ids=(0, 7))).ids == (8, 0, 7)
    assert semantic_space(LabelSpace(("cat",), (True,))).ids == ()


def test_spaces_that_differ_in_ids_alone_are_equal_and_old_files_have_none():
    plain = to_plain(SPACE)
    assert from_plain(LabelSpace, plain).ids == SPACE.ids
    del plain["ids"]
    old = from_plain(LabelSpace, plain)
    assert old.ids == ()
    assert old == SPACE
    assert hash(old) == hash(SPACE)


@pytest.mark.parametrize(("ids", "message"), [((3,), "as many ids, found 1"), ((3, 3, 4), "different numbers")])
def test_ids_that_do_not_fit_are_refused(ids, message):
    with pytest.raises(UserError, match=message):
        LabelSpace(("cat", "sky", "dog"), ids=ids)
