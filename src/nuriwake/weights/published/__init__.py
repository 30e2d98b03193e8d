"""Published checkpoints: one file per architecture says how each source names its arrays and what its weights expect."""
