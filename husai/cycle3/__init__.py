"""The original campaign's policy inputs and files, read as ordinary evidence."""
