"""Prometheus metrics of the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class ServiceMetrics:
    """Prometheus counters of one service, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "reactometer_requests", "Number of requests by route and status.", ("route", "status"), registry=registry
        )
        self.clips = Counter("reactometer_clips", "Number of clips by outcome.", ("outcome",), registry=registry)
        self.seconds = Histogram(
            "reactometer_clip_seconds",
            "Seconds per clip in each stage: wait (in the queue), predict.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.queued = Gauge("reactometer_queue_clips", "Number of clips in the queue.", registry=registry)
        self.running = Gauge("reactometer_running_clips", "Number of running clips.", registry=registry)
        self.live = Gauge("reactometer_live_sessions", "Number of open live sessions.", registry=registry)

    def text(self) -> bytes:
        """Format all metrics as Prometheus text."""
        return generate_latest(self.registry)
