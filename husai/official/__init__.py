"""SAEBench's, sae-probes' and CE-Bench's own programs: preflight, execution, and their results read
back."""
