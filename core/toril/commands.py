"""For plugins that bring commands: options, output and exit codes as `toril` itself has them.

A command is a click command, named by an entry point of the group `toril.commands`.
"""

from toril.cli.exits import CommandError, Exit
from toril.cli.output import Output, connection_options, output_option, talk

__all__ = ["CommandError", "Exit", "Output", "connection_options", "output_option", "talk"]
