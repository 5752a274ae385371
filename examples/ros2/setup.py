"""The ROS 2 package; ``pip install`` the package reactometer into the same Python first."""

from setuptools import setup

setup(
    name="reactometer_live",
    version="0.1.0",
    packages=["reactometer_live"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/reactometer_live"]),
        ("share/reactometer_live", ["package.xml"]),
    ],
    install_requires=["setuptools", "reactometer"],
    zip_safe=True,
    entry_points={"console_scripts": ["live = reactometer_live.node:main"]},
)
