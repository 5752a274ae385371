"""Metrics of a service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "reactometer_requests", "Number of requests by route and status.", ("route", "status"), registry=own
        )
        self.clips = Counter("reactometer_clips", "Number of clips by outcome.", ("outcome",), registry=own)
        self.seconds = Histogram(
            "reactometer_clip_seconds",
            "Seconds per clip in each stage: wait (in the queue), predict.",
            ("stage",),
            buckets=SECONDS,
            registry=own,
        )
        self.queued = Gauge("reactometer_queue_clips", "Number of clips in the queue.", registry=own)
        self.running = Gauge("reactometer_running_clips", "Number of running clips.", registry=own)
        self.live = Gauge("reactometer_live_sessions", "Number of open live sessions.", registry=own)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
