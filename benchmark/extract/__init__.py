"""Extract features from videos: decoding, networks, extractors, and the feature file made of the results."""
