"""A model and files never seen -> intensities."""
