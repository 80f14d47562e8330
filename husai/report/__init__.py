"""The report room: gate report, experiment log, copies of the evidence, pictures of the workflow,
check of the machine. No torch."""
