"""Trained models on disk: the bundle, and readers of foreign checkpoints."""
