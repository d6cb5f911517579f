"""What every stage reads: prepared arrays with their metadata, and images as batches."""
