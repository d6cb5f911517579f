"""The command line: python -m flowvae is the same as flowvae."""

from flowvae.commands.app import main

if __name__ == "__main__":
    main()
