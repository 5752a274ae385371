"""Score the last seconds of a camera, a microphone or a stream while frames and sound arrive."""
