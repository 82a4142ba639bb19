"""Going out: the outbox, the sender, and the status of every delivery."""
