"""Starts the command line of the benchmark; see ``benchmark/cli.py``."""

from benchmark.cli import main

if __name__ == "__main__":
    main()
