"""Where a run executes and what it reports on the way. Nothing here changes a result."""
