"""The subcommands of `pyalexnet`, one per file; they and `cli.py` are the only users of typer."""
