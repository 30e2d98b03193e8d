"""Floor 0: what every other room speaks in. Imports nothing of ours and no torch."""
