"""The bench: times of operations and whole steps, beside the best of other libraries.

`python -m bench` (from a checkout) or `pyalexnet bench`. Every answer is checked before it is
timed; losses are shown in the same table as wins. Imports within this package are relative, because
it is installed under the name `pyalexnet.bench`.
"""
