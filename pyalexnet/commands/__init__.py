"""The subcommands of `pyalexnet`, one a file; with `cli.py` the only users of typer."""
