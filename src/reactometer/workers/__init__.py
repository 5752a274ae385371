"""Processes of their own: a pool of workers that may crash, and an isolated decoder with resource limits."""
