"""A batch -> intensities."""
