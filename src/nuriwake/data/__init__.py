"""Floor 1: one file per format, the detector, splitting, samplers and batching. `open_data(path)` is the way in."""
