"""SAEs that other trainers wrote: imported as the members of an ensemble, or compared as they
are.
"""
