"""The subcommands of ``ofa-build``; each adds its own flags."""
