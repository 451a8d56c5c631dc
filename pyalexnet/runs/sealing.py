"""JSON documents that hold their own SHA-256: the state of a checkpoint, the table of a pack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sealed(document: Mapping[str, Any]) -> bytes:
    """The document with its seal as entry `sha256`, which replaces any entry of that name.

    One key per line, for people; strict JSON, for programs. Unaltered bytes are those that this
    function makes from their own content.

    Raises:
        TypeError, ValueError: it cannot be written as JSON.
    """
    whole = {**document, "sha256": _sha256(document)}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _sha256(document: Mapping[str, Any]) -> str:
    """SHA-256 of the JSON with sorted keys, no blanks and no entry sha256."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
