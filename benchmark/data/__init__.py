"""Data: dataset cards, the feature store, importers of published layouts, generated data, and batches."""
