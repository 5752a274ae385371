"""A data set on disk -> batches."""
