"""Predict any number of files in resumable runs."""
