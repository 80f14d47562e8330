"""Checks across configuration keys that no single key can make: names that must exist, seeds that
must be fresh.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from husai.config.data_sets import data_set_checks
from husai.config.draws import resolved_seeds
from husai.config.fields import NAME
from husai.config.schema import Config
from husai.errors import HusaiError, nearest
from husai.recipe import RANDOM
from husai.sae_files import default_name, expand, is_remote, listed

ON_SUBJECTS = {
    "baseline": ("d_sae", "k"),
    "ablations": ("k_at_d_sae",),
    "consistency": ("d_sae", "k"),
}


def cross_checks(cfg: Config) -> list[str]:
    """Every contradiction between keys, one readable line each; empty when there is none."""
    return [
        *_subjects(cfg),
        *_per_subject(cfg),
        *_widths(cfg),
        *_seeds(cfg),
        *_external(cfg),
        *_candidates(cfg),
        *_stages(cfg),
        *_policies(cfg),
    ]


def _subjects(cfg: Config) -> list[str]:
    out = []
    names = list(cfg.subjects)
    uses = [
        ("calibration.subject", cfg.calibration.subject),
        ("external.subject", cfg.external.subject),
        ("stress.transcoder_subject", cfg.stress.transcoder_subject),
        *(
            (f"{stage}.subject", name)
            for stage in ON_SUBJECTS
            for name in getattr(cfg, stage).subjects
        ),
    ]
    for key, name in uses:
        if name not in names:
            out.append(
                f"{key}: '{name}' is not a subject; expected one of "
                f"{', '.join(names)}{nearest(name, names)}"
            )
    for name, subject in cfg.subjects.items():
        if name.endswith(RANDOM):
            out.append(
                f"subjects.{name}: names that end in {RANDOM} belong to the randomised copies that "
                "the stress tests make; choose another"
            )
        if not subject.hooks:
            out.append(f"subjects.{name}.hooks: empty; name at least one hook point")
        if name not in cfg.training:
            out.append(f"training.{name}: missing; every subject needs its SAE training settings")
        if subject.kind != "modular" and name not in cfg.activations:
            out.append(f"activations.{name}: missing; say how many rows to store")
    for name in cfg.consistency.subjects:
        internal = name in names and cfg.subjects[name].kind in ("modular", "rows")
        if name in names and name != cfg.external.subject and not internal:
            out.append(
                f"consistency.subject: '{name}' reads text but is not external.subject "
                f"'{cfg.external.subject}', so nothing could be accepted "
                "by its external delta; name a modular subject or that one"
            )
    return [*out, *_external_subject(cfg)]


def _external_subject(cfg: Config) -> list[str]:
    """The subject of the external benchmarks reads text, and the hooks asked of it are stored."""
    subject, out = cfg.subjects.get(cfg.external.subject), []
    if subject is not None:
        if subject.kind in ("modular", "rows"):
            out.append(
                f"external.subject: '{cfg.external.subject}' is {subject.kind}; external "
                "benchmarks need a model that reads text (language, pretrained)"
            )
        wanted = [("scaling.hooks", h) for h in cfg.scaling.hooks] + [
            ("stress.transcoder_hooks", h) for h in cfg.stress.transcoder_hooks
        ]
        for key, hook in wanted:
            if hook not in subject.hooks:
                known = ", ".join(subject.hooks)
                out.append(
                    f"{key}: hook '{hook}' is not stored for {cfg.external.subject}; expected one "
                    f"of {known}{nearest(hook, subject.hooks)}"
                )
    return out


def _per_subject(cfg: Config) -> list[str]:
    """Numbers given per subject are there for every subject of their stage and name only subjects;
    no subject is listed twice.
    """
    out = []
    for stage, keys in ON_SUBJECTS.items():
        section = getattr(cfg, stage)
        if len(set(section.subjects)) < len(section.subjects):
            out.append(f"{stage}.subject: {section.subjects} names a subject twice")
        for key in keys:
            value = getattr(section, key)
            given = set(value) if isinstance(value, dict) else set(section.subjects)
            unknown, lacking = (
                sorted(given - set(cfg.subjects)),
                [s for s in section.subjects if s not in given],
            )
            out += [
                f"{stage}.{key}: '{name}' is not a subject{nearest(name, list(cfg.subjects))}"
                for name in unknown
            ]
            out += [
                f"{stage}.{key}: no value for subject '{name}'; give one number for all, or one "
                "for each"
                for name in lacking
            ]
    return out


def _widths(cfg: Config) -> list[str]:
    if _per_subject(cfg):
        return []  # said there
    pairs = [
        (f"{name}.k", stage.at("k", s), stage.at("d_sae", s))
        for name, stage in (("baseline", cfg.baseline), ("consistency", cfg.consistency))
        for s in stage.subjects
    ]
    pairs += [
        ("ablations.k", k, cfg.ablations.at("k_at_d_sae", s))
        for s in cfg.ablations.subjects
        for k in cfg.ablations.k
    ]
    pairs += [("ablations.d_sae_at_k", cfg.ablations.d_sae_at_k, d) for d in cfg.ablations.d_sae]
    pairs += [
        ("calibration.k", k, cfg.calibration.d_sae)
        for k in (*cfg.calibration.k, cfg.calibration.default_k)
    ]
    pairs += [("frontier.k", cfg.frontier.k, cfg.frontier.d_sae)]
    pairs += [
        (f"frontier.recipes.{i}.l0", one.l0, one.d_sae)
        for i, one in enumerate(cfg.frontier.recipes or [])
    ]
    pairs += [("scaling.k", cfg.scaling.k, d) for d in cfg.scaling.d_sae]
    return [
        f"{key}: k = {k} is larger than d_sae = {d}; a row cannot use more latents than there are"
        for key, k, d in pairs
        if isinstance(k, int) and k > d
    ]


def _seeds(cfg: Config) -> list[str]:
    out = []
    confirmation, stress = resolved_seeds(cfg)
    lists = {
        "baseline.seeds": cfg.baseline.seeds,
        "ablations.seeds": cfg.ablations.seeds,
        "calibration.seeds": cfg.calibration.seeds,
        "calibration.retrain_seeds": cfg.calibration.retrain_seeds,
        "consistency.seeds": cfg.consistency.seeds,
        "frontier.seeds": cfg.frontier.seeds,
        "scaling.seeds": cfg.scaling.seeds,
        "confirmation.seeds": confirmation,
        "stress.seeds": stress,
    }
    for key, seeds in lists.items():
        if len(set(seeds)) < len(seeds):
            out.append(f"{key}: {seeds} names a seed twice; one seed is one observation")
    for i, one in enumerate(cfg.frontier.recipes or []):
        groups = (one.consensus and one.consensus.groups) or 0
        if groups > len(cfg.frontier.seeds):
            out.append(
                f"frontier.recipes.{i}.consensus.groups: {groups} groups, but frontier.seeds has "
                f"{len(cfg.frontier.seeds)}; each group takes the name of one"
            )
    used = set(cfg.frontier.seeds) | set(cfg.scaling.seeds)
    stale = sorted(used & set(confirmation))
    if stale:
        out.append(
            f"confirmation.seeds: {stale} already chose the candidate; confirmation needs fresh "
            "seeds"
        )
    stale = sorted(set(cfg.calibration.seeds) & set(cfg.calibration.retrain_seeds))
    if stale:
        out.append(
            f"calibration.retrain_seeds: {stale} were used by the search; retraining needs fresh "
            "seeds"
        )
    return out


def _external(cfg: Config) -> list[str]:
    out = []
    probing = cfg.external.probing
    for key in ("gate_k", "dense_k"):
        k = getattr(probing, key)
        if k not in probing.ks:
            out.append(
                f"external.probing.{key}: {k} is not among external.probing.ks {probing.ks}; add it"
            )
    return [*out, *data_set_checks(cfg)]


def _candidates(cfg: Config) -> list[str]:
    out: list[str] = []
    names: dict[str, int] = {}
    for i, one in enumerate(cfg.external.candidates):
        where, subject = f"external.candidates.{i}", cfg.subjects.get(one.subject)
        name = one.name or default_name(one.path)
        if subject is None:
            known = list(cfg.subjects)
            out.append(
                f"{where}.subject: '{one.subject}' is not a subject; expected one of "
                f"{', '.join(known)}{nearest(one.subject, known)}"
            )
        elif one.subject != cfg.external.subject:
            out.append(
                f"{where}.subject: '{one.subject}' is not external.subject "
                f"('{cfg.external.subject}'), whose SAEs are compared"
            )
        elif one.hook not in subject.hooks:
            known = ", ".join(subject.hooks)
            out.append(
                f"{where}.hook: '{one.hook}' is not stored for {one.subject}; expected one of "
                f"{known}{nearest(one.hook, subject.hooks)}"
            )
        if not re.fullmatch(NAME, name):
            out.append(
                f"{where}.name: missing; {one.path!r} gives no name that matches {NAME}, so say one"
            )
        elif name in names:
            out.append(
                f"{where}.name: '{name}' is also the name of external.candidates.{names[name]}; "
                "give each its own name"
            )
        names.setdefault(name, i)
        out += _paths(f"{where}.path", one.path) + _paths(f"{where}.confirmation", one.confirmation)
        out += _members(where, expand(one.path), expand(one.confirmation))
    return out


def _paths(where: str, path: str | list[str]) -> list[str]:
    absent = [p for p in listed(path) if not is_remote(p) and not Path(p).exists()]
    return [
        f"{where}: {p}: no such file or folder (looked from {Path.cwd()}); give a checkpoint or a "
        "folder of seed*/"
        for p in absent
    ]


def _members(where: str, members: Sequence[Path], fresh: Sequence[Path]) -> list[str]:
    out = [] if members else [f"{where}.path: empty; name at least one checkpoint"]
    places = [p.resolve() for p in (*members, *fresh)]
    twice = sorted({str(p) for p in places if places.count(p) > 1})
    if twice:
        out.append(
            f"{where}: {twice[0]} is named twice; one SAE is one observation, and confirmation "
            "needs others than the selection"
        )
    if len(fresh) == 1:
        out.append(
            f"{where}.confirmation: one member; agreement between seeds needs at least two (the "
            "strict policy 8)"
        )
    return out


def _stages(cfg: Config) -> list[str]:
    out = []
    if "frontier" not in cfg.stages and not cfg.external.candidates:
        out.append(
            "stages: the frontier table would be empty; add frontier, or external.candidates"
        )
    if "cycle3" in cfg.gate.policies and "baseline" not in cfg.stages:
        out.append(
            "stages: the policy cycle3 reads the baseline; add it, or leave cycle3 out of "
            "gate.policies"
        )
    return out


def _policies(cfg: Config) -> list[str]:
    """Policies are read before anything runs: a mistake in one must not show after hours of
    training.
    """
    from husai.gate.policy_files import load_policy, policy_name

    out, names = [], [policy_name(p) for p in cfg.gate.policies]
    for name in cfg.gate.policies:
        if not re.fullmatch(NAME, policy_name(name)) or set("{}") & set(name):
            out.append(
                f"gate.policies: {name!r}: results/gate/ has a folder of the policy's name, which "
                f"should match {NAME}, and its path holds no braces; rename the file"
            )
        try:
            load_policy(name)
        except HusaiError as error:
            out.append(f"gate.policies: {error}")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        out.append(
            f"gate.policies: two policies are called '{twice[0]}'; results/gate/{twice[0]}/ has "
            "room for one, rename a file"
        )
    if "strict" not in names:
        out.append(
            f"gate.policies: {cfg.gate.policies} lacks strict, which decides how a run ends; add it"
        )
    return out
