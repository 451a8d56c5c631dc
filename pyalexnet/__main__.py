"""`python -m pyalexnet` is the command `pyalexnet`."""

from pyalexnet.cli import main

if __name__ == "__main__":
    main()
