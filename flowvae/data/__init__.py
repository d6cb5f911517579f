"""Images: where they come from, how they become bits, and how they reach the model."""
