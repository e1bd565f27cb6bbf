"""Starts the command line of the benchmark; see ``benchmark/cli/app.py``."""

from benchmark.cli.app import main

if __name__ == "__main__":
    main()
