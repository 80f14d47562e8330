"""CE-Bench: contrastive story pairs, their mean latents, and scores."""
