"""What the NumPy backend's operations are made of.

A batch is worked off in pieces that about fit a core's cache, on all cores at once. How it is cut
depends on shapes alone, and sums over pieces have a fixed order: equal arguments give equal bits,
whatever the number of cores.
"""
