"""A run's files: its folder, its checkpoints, its log."""
