"""Uses of a trained network."""
