"""The networks that compute features."""
