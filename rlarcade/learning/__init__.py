"""Networks, losses, replay, the agent, the training loop and its state on disk."""
