"""Training: one plain loop, its state, its schedules and its checkpoints."""
