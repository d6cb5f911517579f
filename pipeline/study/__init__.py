"""What a study compares: its points, and the trials at them."""
