"""The jobs: one file per rule or verb, with its options and what it does: it reads files, calls a
room, writes files. What is heavy is imported when it runs.
"""
