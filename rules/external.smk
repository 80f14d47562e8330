# External benchmarks of the language subject: sparse probing, contrastive pairs, frontier and scaling tables. One job
# measures all seeds of a recipe.


rule probe_baselines:
    input:
        probes=f"results/subjects/{LANGUAGE}/probes/manifest.json",
    output:
        "results/external/baselines/{split}/{hook}.json",
    log:
        "logs/probe_baselines/{split}/{hook}.log",
    benchmark:
        "results/benchmarks/probe_baselines/{split}/{hook}.tsv"
    wildcard_constraints:
        split="selection|confirmation",
    priority: 1
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.probing(w.split),
    message:
        "Probing baselines at {wildcards.hook}, {wildcards.split} data sets"
    shell:
        "husai saebench --baselines-only --spec {params.spec:q} --probes {input.probes:q} --hook {wildcards.hook:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


for NAME_OF_RULE, SEEDS, IDS in by_seeds("saebench"):

    rule:
        name:
            NAME_OF_RULE
        input:
            saes=external_sae,
            probes=f"results/subjects/{LANGUAGE}/probes/manifest.json",
            baselines=lambda w: f"results/external/baselines/selection/{PLAN.get(LANGUAGE, w.recipe).hook_name}.json",
        output:
            expand("results/external/{{recipe}}/seed{seed}/saebench.json", seed=SEEDS),
        log:
            "logs/saebench/{recipe}.log",
        benchmark:
            "results/benchmarks/saebench/{recipe}.tsv"
        wildcard_constraints:
            recipe=IDS,
        priority: awaited
        conda:
            ENV
        threads: THREADS
        resources:
            **GPU_JOB,
        params:
            spec=SPECS.probing("selection"),
            seeds=SEEDS,
        message:
            "Sparse probing of {wildcards.recipe}"
        shell:
            "husai saebench --spec {params.spec:q} --saes {input.saes:q} --seed {params.seeds:q} --probes {input.probes:q} --baselines {input.baselines:q}"
            " --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


for NAME_OF_RULE, SEEDS, IDS in by_seeds("cebench"):

    rule:
        name:
            NAME_OF_RULE
        input:
            saes=external_sae,
            pairs=f"results/subjects/{LANGUAGE}/pairs/manifest.json",
        output:
            expand("results/external/{{recipe}}/seed{seed}/cebench.json", seed=SEEDS),
        log:
            "logs/cebench/{recipe}.log",
        benchmark:
            "results/benchmarks/cebench/{recipe}.tsv"
        wildcard_constraints:
            recipe=IDS,
        priority: awaited
        conda:
            ENV
        threads: THREADS
        resources:
            **GPU_JOB,
        params:
            spec=SPECS.cebench(),
            seeds=SEEDS,
        message:
            "CE-Bench of {wildcards.recipe}"
        shell:
            "husai cebench --spec {params.spec:q} --saes {input.saes:q} --seed {params.seeds:q} --pairs {input.pairs:q} --out {output:q}"
            " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule frontier:
    input:
        saebench=measured("saebench", COMPARED),
        cebench=measured("cebench", COMPARED),
        faithfulness=measured("faithfulness", COMPARED),
        stability=stability_of(PLAN.reproducible()),
    output:
        json="results/external/frontier.json",
        parquet="results/external/frontier.parquet",
        md="results/external/frontier.md",
    log:
        "logs/frontier.log",
    benchmark:
        "results/benchmarks/frontier.tsv"
    priority: 1
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.frontier(),
    message:
        "Frontier: architectures at matched L0"
    shell:
        "husai summarize frontier --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"


rule scaling:
    input:
        saebench=measured("saebench", PLAN.scaling),
        cebench=measured("cebench", PLAN.scaling),
    output:
        json="results/external/scaling.json",
        parquet="results/external/scaling.parquet",
        md="results/external/scaling.md",
    log:
        "logs/scaling.log",
    benchmark:
        "results/benchmarks/scaling.tsv"
    priority: 1
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.scaling(),
    message:
        "Scaling: token budget x hook x d_sae"
    shell:
        "husai summarize scaling --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"
