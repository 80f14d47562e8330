"""The first screen of the gate report: the verdict, a question per gate, the candidates, the
words."""
