"""SAEs that other trainers wrote: imported as members of an ensemble, or compared as they are."""
