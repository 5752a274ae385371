"""A camera, a microphone or a stream → scores of the last seconds, as frames and sound arrive."""
