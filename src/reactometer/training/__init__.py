"""Configuration and prepared clips -> a model folder."""
