"""From measured records to the tables, evidence and sentences of each stage: numbers in, rows out.
No torch.
"""
