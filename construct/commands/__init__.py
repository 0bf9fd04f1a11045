"""The subcommands of `construct`, one module each; `construct.cli` imports one only when it is called."""
