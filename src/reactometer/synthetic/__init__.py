"""Synthetic faces and voices: the demo dataset."""
