"""Saying that a limit cut: once, however many images it cuts in."""

import warnings


def say_cut(
    what: str,
    limit: str,
    number: int,
    *,
    lost: str = "the least sure are left out",
    remedy: str = "Raise it to have them.",
) -> None:
    """Warn the user that there was more than a limit lets through.

    The words do not depend on the image, and the place is this one, so that Python shows them once and not for every image.

    Args:
        what: "objects in an image": of which there are more.
        limit: the field that can be changed, as the user writes it.
        number: its value.
        lost: what becomes of the others.
        remedy: what the user can do.
    """
    warnings.warn(f"There are more {what} than {limit} ({number}); {lost}. {remedy}", stacklevel=1)
