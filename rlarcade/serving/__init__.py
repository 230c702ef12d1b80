"""Serving: an agent online, and rollouts of its next version."""
