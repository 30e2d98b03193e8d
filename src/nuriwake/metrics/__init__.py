"""Floor 1: (prediction, target) -> counts -> numbers. Ratios appear only when they are asked for."""
