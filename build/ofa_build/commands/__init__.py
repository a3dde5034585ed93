"""The subcommands of ``ofa-build`` that work on data; each adds its own flags."""
