# What is known of every single latent of the confirmed candidate.


rule passport:
    input:
        saes="results/confirmation/candidate/manifest.json",
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        table="results/passport/passport.parquet",
        record="results/passport/passport.json",
        manifest="results/passport/manifest.json",
        page="reports/passport.html",
    log:
        "logs/passport.log",
    benchmark:
        "results/benchmarks/passport.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec="{}",
    message:
        "Passports of the candidate's latents"
    shell:
        "husai passport {input.saes:q} --model {input.model:q} --split confirmation --out results/passport --page {output.page:q} --report gate_report.html"
        " --device {resources.device} --threads {threads} > {log:q} 2>&1"
