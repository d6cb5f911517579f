"""The assembly line: stages that read files, call flowvae, and write files."""
