"""Answers of tiles, one by one, joined into the answer for the whole image."""
