"""The registry: versions of agents, the aliases in use, and an audit log of every change.

This file imports nothing, so training does not load SQLAlchemy.
"""
