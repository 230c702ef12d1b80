"""A training run on disk: its folder, its saved state, its figures, and how it is resumed."""
