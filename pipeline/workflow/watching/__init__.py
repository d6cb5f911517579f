"""What people see of a run: on a terminal one live view, elsewhere a line per event. Nothing here imports Prefect."""
