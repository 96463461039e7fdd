"""What the command answers to a shell."""

EXIT_FAILED = 1
"""Something that was asked for was not done."""

EXIT_INTERRUPTED = 130
"""What shells expect of a command that was stopped by Ctrl-C."""
