"""Who plays, and how whole games are played: players, games, recordings."""
