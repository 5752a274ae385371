"""Decode media files into frames, faces and sound."""
