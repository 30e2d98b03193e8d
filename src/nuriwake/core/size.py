"""Sizes of images and maps."""

Size = tuple[int, int]
"""(height, width) in pixels."""
