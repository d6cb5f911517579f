"""The variational autoencoder: networks, flows, likelihoods and objectives."""
