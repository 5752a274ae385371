"""What an extra's packages do for us, in small: programs that run where that extra alone is installed."""

from __future__ import annotations

ITS_MODULES = """
import importlib, sys
from importlib.metadata import distributions, packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reactometer.cli.doctor import FINE, check_packages

(ours,) = (one for one in distributions() if one.metadata["Name"] == "reactometer")
for one in map(Requirement, ours.requires):
    if one.marker and one.marker.evaluate({"extra": sys.argv[1]}):
        owners = packages_distributions().items()
        modules = [top for top, names in owners if canonicalize_name(one.name) in map(canonicalize_name, names)]
        for name in (name for name in modules if not name.startswith("_")):
            print(importlib.import_module(name).__name__)
states = {one.name: one.state for one in check_packages()}
assert states.get(f"extra {sys.argv[1]}", FINE) == FINE, states
"""
"""The modules of an extra's packages are imported, and the package itself takes it for installed."""

ONNX = """
import numpy as np, onnxruntime, torch
net, given = torch.nn.Linear(3, 2), torch.ones(1, 3)
torch.onnx.export(net, (given,), "net.onnx", dynamo=True, verbose=False)
session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
(told,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
assert np.allclose(told, net(given).detach().numpy(), atol=1e-5)
"""
RAY = """
import ray
from reactometer.batch.ray_backend import connect
with connect("local", n_cpus=1):
    assert ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote()) == 42
"""
POSTGRES = """
import psycopg
try:
    psycopg.connect("host=127.0.0.1 port=9 user=nobody dbname=none")
except psycopg.OperationalError as error:
    assert "127.0.0.1" in str(error), error
"""
SCRIPTS = {
    "onnx": ONNX,
    "ray": RAY,
    "postgres": POSTGRES,
}
"""What an extra's packages do for us, in small."""
