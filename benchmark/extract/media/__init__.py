"""Videos and sound."""
