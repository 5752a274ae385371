"""The node: topics ``image`` (or ``image/compressed``) and ``audio`` in, ``reaction`` out, as JSON in a
String."""

from __future__ import annotations

import threading

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from reactometer.terminal import wait_patiently

wait_patiently()

from reactometer.inference.checkpoint import load_model  # noqa: E402
from reactometer.live.scorer import LiveScorer  # noqa: E402
from reactometer.live.session import FrameQueue, run_session  # noqa: E402
from reactometer.paths import STARTER  # noqa: E402

from .messages import compressed_piece, image_piece, score_as_text, sound_piece  # noqa: E402


class LiveNode(Node):
    """A node that scores in a second thread; callbacks only store the newest message."""

    def __init__(self) -> None:
        super().__init__("reactometer_live")
        folder = self.declare_parameter("model", "").value
        window_s = self.declare_parameter("window_s", 2.0).value
        self.model = load_model(folder or STARTER)
        self.scorer = LiveScorer(self.model, window_s)
        self.scorer.warm_up()
        self.inbox = FrameQueue(self.scorer.rate_hz)
        self.publisher = self.create_publisher(String, "reaction", 10)
        reliable = self.declare_parameter("reliable", False).value  # as the camera's node publishes
        quality = QoSProfile(depth=5) if reliable else qos_profile_sensor_data
        self.create_subscription(Image, "image", self.take_image, quality)
        self.create_subscription(CompressedImage, "image/compressed", self.take_compressed, quality)
        if self.declare_parameter("audio", False).value:
            from audio_common_msgs.msg import AudioData

            self.create_subscription(AudioData, "audio", self.take_sound, quality)
        self.thread = threading.Thread(target=self.score, daemon=True)
        self.thread.start()

    def take_image(self, message: Image) -> None:
        """Store a frame; log a warning if its encoding is unknown."""
        try:
            self.inbox.put(image_piece(message))
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)

    def take_compressed(self, message: CompressedImage) -> None:
        """Store a frame."""
        self.inbox.put(compressed_piece(message))

    def take_sound(self, message: object) -> None:
        """Store sound that ends now."""
        self.inbox.put(sound_piece(message, 1e-9 * self.get_clock().now().nanoseconds))

    def score(self) -> None:
        """Publish each score, until the node ends."""
        for score in run_session(self.scorer, self.inbox):
            self.publisher.publish(String(data=score_as_text(score, self.model.labels)))


def main() -> None:
    """Run the node until Ctrl-C."""
    rclpy.init()
    node = LiveNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.inbox.close()
        node.thread.join(timeout=5)
        node.destroy_node()
        rclpy.try_shutdown()
