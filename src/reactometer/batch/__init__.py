"""Runs over any number of files, which go on where they stopped."""
