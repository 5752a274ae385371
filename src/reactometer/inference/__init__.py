"""Predict intensities of new files with a checkpoint, without PyTorch."""
