"""The bench: what the operations and whole steps take, beside the best that others have.

`python -m bench` (from a checkout) or `pyalexnet bench`. Every answer is checked before it is
timed; what others do better is shown in the same table. Imports within this package are relative,
because it is installed under the name `pyalexnet.bench`.
"""
