"""The operations: their contract, the checks of their arguments, and allocation.

A file a family, named like the kernels' (`kernels/conv.cu`, `bindings/conv.cpp`, `ops/conv.py`).
"""
