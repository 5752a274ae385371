"""Metrics of a service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reactometer.models.folder import LoadedModel

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
LIMITS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self, model: LoadedModel) -> None:
        self._model, self.registry = model, CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "reactometer_requests",
            "Number of requests by route, method and status.",
            ("route", "method", "status"),
            registry=own,
        )
        self.clips = Counter("reactometer_clips", "Number of clips by outcome.", ("outcome",), registry=own)
        self.seconds = Histogram(
            "reactometer_stage_seconds",
            "Seconds per clip in each stage: wait (in the queue), read (decode, detect, crop), score, whole.",
            ("stage",),
            buckets=SECONDS,
            registry=own,
        )
        self.video_seconds = Counter("reactometer_video_seconds", "Seconds of video and sound scored.", registry=own)
        self.queued = Gauge("reactometer_queue_clips", "Number of clips in the queue.", registry=own)
        self.running = Gauge("reactometer_running_clips", "Number of running clips.", registry=own)
        self.live = Gauge("reactometer_live_sessions", "Number of open live sessions.", registry=own)
        self.face_share = Histogram(
            "reactometer_input_face_share",
            "Share of a clip's sampled frames that show the face.",
            buckets=SHARES,
            registry=own,
        )
        self.distance = Histogram(
            "reactometer_input_distance",
            "How far a clip lies from the training data, by modality, in shares of the distance that 99 % of the "
            "clips keep to which the model was calibrated on (above 1: unlike them).",
            ("modality",),
            buckets=LIMITS,
            registry=own,
        )

    def observe_input(self, distances: dict[str, float]) -> None:
        """Count a clip's distances, see :meth:`reactometer.models.uncertainty.Uncertainty.distances`."""
        farthest = self._model.uncertainty.farthest if self._model.uncertainty else {}
        for modality, distance in distances.items():
            if farthest.get(modality):
                self.distance.labels(modality).observe(distance / farthest[modality])

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
