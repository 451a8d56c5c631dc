"""AlexNets of other programs: their files, and their axis orders."""
