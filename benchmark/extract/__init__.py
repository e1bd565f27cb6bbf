"""From videos to features: decoding, networks, extractors, and the feature store that becomes of them."""
