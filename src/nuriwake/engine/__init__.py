"""Floor 5: a run configuration goes in, a trained, scored, usable model comes out."""
