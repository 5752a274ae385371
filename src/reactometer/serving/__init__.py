"""Files and streams from afar -> intensities, over HTTP and WebSocket."""
