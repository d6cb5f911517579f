"""One module per stage of dvc.yaml: read files, call flowvae, write files."""
