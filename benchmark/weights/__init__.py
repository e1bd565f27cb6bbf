"""Files of trained weights, ours and published."""
