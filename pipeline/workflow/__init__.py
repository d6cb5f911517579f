"""The pipeline as a Prefect workflow: one task per stage of DVC's graph."""
