"""`construct compare`."""

from empirical.commands.report import compare

command = compare
