"""Train, evaluate, reproduce: see README.md, and `python -m` this package with `--help`."""
