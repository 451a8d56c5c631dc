"""Processes that train together: how they start, exchange arrays, agree and end."""
