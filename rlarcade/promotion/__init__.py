"""How a version becomes its game's champion: gate, checks, submissions, pipeline."""
