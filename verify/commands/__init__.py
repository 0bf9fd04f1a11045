"""The subcommands of `construct` that prove something; `construct.cli` imports one only when it is called."""
