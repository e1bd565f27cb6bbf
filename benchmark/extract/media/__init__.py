"""Decode videos and audio, and prepare them for networks."""
