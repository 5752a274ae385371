"""Manifests, splits, prepared clips and model inputs of a dataset on disk."""
