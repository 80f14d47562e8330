"""One module per rule: its arguments, and a function that reads files, calls a room and writes files."""
