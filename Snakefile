# HUSAI: decide whether sparse autoencoders can be trusted enough to release.
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config/config.yaml"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/subjects.smk"
include: "rules/saes.smk"
include: "rules/baseline.smk"
include: "rules/ablations.smk"
include: "rules/calibration.smk"
include: "rules/consistency.smk"
include: "rules/external.smk"
include: "rules/faithfulness.smk"
include: "rules/selection.smk"
include: "rules/confirmation.smk"
include: "rules/stress.smk"
include: "rules/passport.smk"
include: "rules/gate.smk"
include: "rules/release.smk"
include: "rules/report.smk"


onstart:
    shell("{START}")


onsuccess:
    shell("husai log --event success < /dev/null")


onerror:
    shell("husai log --event error < /dev/null")


rule all:
    default_target: True
    input:
        "reports/gate_report.html",
        "reports/passport.html",
        "results/release/manifest.json",
        "reports/experiment_log.md",
        "reports/dag.svg",
        "results/gate/asserted.json",


rule internal:
    input:
        stage_summaries(),


rule benchmarks:
    input:
        external_tables(),


# Of config/search.yaml: what selection data say of every recipe, before anything is chosen.
rule search:
    input:
        "results/external/frontier.json",


rule decision:
    input:
        expand("results/gate/{policy}/release_policy.json", policy=POLICIES),
