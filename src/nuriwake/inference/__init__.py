"""From an image to a prediction: preprocessing, tiles, test-time augmentation, decoding, post-processing, `Predictor`."""
