"""What the tests of clusters share."""

from ray_nodes import ray_cluster, ray_nodes

__all__ = ["ray_cluster", "ray_nodes"]
