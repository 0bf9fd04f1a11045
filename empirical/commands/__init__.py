"""The subcommands of `construct` that measure; `construct.cli` imports one only when it is called."""
