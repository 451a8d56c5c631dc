"""The paper's claims, run again: each is a file of `claims/`, its result one of `records/`."""
