"""Files, locks, databases and other things of the operating system."""
