"""How a checkpoint becomes its game's champion: registry, gate, pipeline.

This file imports nothing, so training does not load SQLAlchemy.
"""
