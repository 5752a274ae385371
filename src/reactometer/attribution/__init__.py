"""Explain a prediction: the modality, the seconds and the part of the face that changed each emotion."""
