"""The report room: gate report, experiment log, evidence mirror, verification, rule graph and
machine check. No torch.
"""
