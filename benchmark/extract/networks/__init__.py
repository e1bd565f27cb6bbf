"""Networks that features are computed by."""
