"""The subcommands of `construct` that draw."""
