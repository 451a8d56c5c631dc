"""AlexNets of other programs: their files, and their order of axes."""
