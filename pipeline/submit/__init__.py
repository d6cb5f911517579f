"""Submit a job to a Ray cluster, and copy its results back."""
