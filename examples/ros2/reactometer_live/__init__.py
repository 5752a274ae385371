"""A ROS 2 node around reactometer's live scorer."""
