"""How a checkpoint becomes its game's champion: registry, gate, pipeline.

Nothing is loaded here: who trains needs no database.
"""
