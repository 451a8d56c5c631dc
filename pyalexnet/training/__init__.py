"""The training loop and its watchers."""
