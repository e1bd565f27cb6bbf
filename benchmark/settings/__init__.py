"""The settings of methods and benchmark runs, and their sources."""
