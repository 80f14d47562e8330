"""Text for subjects and SAEs: where it comes from, what of it is evaluation text, and contexts of
tokens."""
