"""The machine around every command: its command line, files, locks, cores and processes."""
