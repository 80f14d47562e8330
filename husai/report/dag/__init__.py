"""Pictures of the workflow, drawn from Snakemake's own list of jobs."""
