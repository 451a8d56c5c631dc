"""Pictures: a run's curves, a network's filters and maps, and its predictions for images.

Each is a function of arrays that writes a PNG; `trained/gather.py` gets the arrays from a network.
Only `page.py` imports matplotlib, when a picture is drawn.
"""

from pyalexnet.show.batch import batch
from pyalexnet.show.curves import TEST, TRAIN, curves
from pyalexnet.show.filters import filters
from pyalexnet.show.maps import maps
from pyalexnet.show.predictions import predictions
from pyalexnet.show.similar import similar

__all__ = ["TEST", "TRAIN", "batch", "curves", "filters", "maps", "predictions", "similar"]
