"""Explain a prediction: which modality, which seconds and which part of the face changed each emotion."""
