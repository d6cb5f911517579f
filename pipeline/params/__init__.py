"""params.yaml as typed config: schema, checks, and one line per mistake."""
