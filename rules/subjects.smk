# Models under study and their activations.


rule subject:
    input:
        parent=subject_parent,
    output:
        "results/subjects/{subject}/model/manifest.json",
    log:
        "logs/subject/{subject}.log",
    benchmark:
        "results/benchmarks/subject/{subject}.tsv"
    priority: awaited
    conda:
        ENV
    threads: 1
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.subject(w.subject),
    message:
        "Subject {wildcards.subject}"
    shell:
        "husai subject --spec {params.spec:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule activations:
    input:
        model="results/subjects/{subject}/model/manifest.json",
    output:
        "results/subjects/{subject}/activations/{hook}/manifest.json",
    log:
        "logs/activations/{subject}/{hook}.log",
    benchmark:
        "results/benchmarks/activations/{subject}/{hook}.tsv"
    priority: awaited
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.activations(w.subject),
    message:
        "Activations of {wildcards.subject} at {wildcards.hook}"
    shell:
        "husai activations --spec {params.spec:q} --model {input.model:q} --hook {wildcards.hook:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule probe_activations:
    input:
        model="results/subjects/{subject}/model/manifest.json",
    output:
        "results/subjects/{subject}/probes/manifest.json",
    log:
        "logs/probe_activations/{subject}.log",
    benchmark:
        "results/benchmarks/probe_activations/{subject}.tsv"
    priority: awaited
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.probes(w.subject),
    message:
        "Activations of {wildcards.subject} on the probing data sets"
    shell:
        "husai activations --probes --spec {params.spec:q} --model {input.model:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule pair_activations:
    input:
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        f"results/subjects/{LANGUAGE}/pairs/manifest.json",
    log:
        "logs/pair_activations.log",
    benchmark:
        "results/benchmarks/pair_activations.tsv"
    priority: 1
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.pairs(),
    message:
        "Activations of the contrastive pairs"
    shell:
        "husai activations --pairs --spec {params.spec:q} --model {input.model:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"
