"""The work of each command, from typed settings to files and lines of text."""
