"""The command line `flowvae`. What its modules import, each call pays for, so torch is imported inside of commands."""
