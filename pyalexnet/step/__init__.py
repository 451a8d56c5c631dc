"""One step of training: a network, the plan of its calls, and the update."""
