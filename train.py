"""Trains a model; see `python train.py --help`."""

import sys

from minimind.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
