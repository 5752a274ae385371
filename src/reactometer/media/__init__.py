"""A file -> what is seen and heard."""
