"""Measurements of the engine on AWS: `client`, `cost`, `throughput`."""
