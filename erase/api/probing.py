"""``erase probe``: attacks on a finished run, each outcome kept, so that nothing is attacked twice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from eval import attacker
from eval.evaluate import read_record, write_record
from eval.probe import AMOUNTS, Amount, Budget, load_probe, named_probes, subjects_of
from eval.protocol import Protocol
from pipelines.delta import weights_sha256
from pipelines.errors import UsageError
from pipelines.files import is_safetensors
from pipelines.identity import file_digest
from pipelines.model import DiT, load
from pipelines.progress import bar_of
from pipelines.provenance import retained_classes
from pipelines.sources import check_source
from pipelines.tensor_file import save_tensors
from pipelines.text import listed

from ..config import ErasureConfig
from ..erasure import images_of, load_original
from ..interrupt import stoppable
from ..rundir import RunDir, cache_dir, find_run, find_scored_run
from .cards import write_card
from .devices import pick_device
from .judging import Judges, protocol_scorer
from .outcomes import KIND, Outcome, add_outcomes, load_outcome, probe_dir
from .redrawing import redraw
from .retrained import check_retrained, score_retrained
from .scoring import add_command, control_class


def probe(
    run: str | Path,
    *,
    probes: Sequence[str] = (),
    budget: str = "quick",
    data: str | None = None,
    retrained: str | None = None,
    control: bool = True,
    seed: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Attack the erased model of a scored run beside its controls; returns the result record with the outcomes.

    Every erased class is attacked by itself, and each attack reported for the one of which most came back. ``probes``
    names files of ``eval/probes``, none means all; ``retrained`` is a model of ``erase pretrain --without`` all those
    classes, the floor of each recovery; ``data`` are the attacker's images, those of the run unless named, and ``seed``
    decides what an attacker draws, that of the run unless given; ``control=False`` leaves out the retained class.
    Outcomes are kept in the cache by model, attack, budget and seed. Raises ``UsageError`` for an unknown name and for
    data that lack an erased class, ``MissingError`` for a run without scores.
    """
    folder, names = checked_run(run, budget=budget, data=data), named_probes(probes)
    record = read_record(folder.results_path)
    config, where = folder.config, pick_device(device)
    if retrained is not None:
        check_retrained(retrained, config)
    original, erased = load_original(config, device=where), load(folder.model_dir, device=where)
    floor = {} if retrained is None else {"retrained": load(retrained, device=where)}
    models = {"original": original, **floor, "erased": erased}
    with stoppable("probing"):
        budgeted = budget_of(original, record, config, amount=AMOUNTS[budget], data=data, progress=progress)
        budgeted = budgeted if seed is None else replace(budgeted, seed=seed)
        check_images(budgeted, config, data=data)
        controls = {"control": (erased, control_class(record, budgeted))} if control else {}
        found = attack(names, models, config.forget_classes, budgeted, controls=controls, progress=progress)
        add_outcomes(record, found, budgeted, retrained=retrained)
        add_command(record, command_of(run, probes, budget=budget, data=data, retrained=retrained, seed=seed))
        write_record(record, folder.results_path)
        publish(record, models, folder, budgeted, progress=progress)
    return record


def publish(
    record: dict[str, Any],
    models: Mapping[str, DiT],
    folder: RunDir,
    budget: Budget,
    *,
    progress: bool,
) -> None:
    """Score the retrained model where there is one; then write record, report and card."""
    config, protocol, scorer = folder.config, budget.protocol, budget.scorer
    if "retrained" in models:
        score_retrained(models, record, protocol=protocol, scorer=scorer, progress=progress)
        write_record(record, folder.results_path)
    redraw(models, record, config, folder, protocol=protocol, scorer=scorer, command="")
    write_card(folder)


def checked_run(run: str | Path, *, budget: str, data: str | None) -> RunDir:
    """The run, once everything that can be checked without a weight is (``UsageError``, ``MissingError``)."""
    find_run(run)
    if budget not in AMOUNTS:
        raise UsageError(f"--budget {budget!r} is not one of {', '.join(AMOUNTS)}")
    if data is not None:
        check_source(data)
    return find_scored_run(run)


def command_of(
    run: str | Path, probes: Sequence[str], *, budget: str, data: str | None, retrained: str | None, seed: int | None
) -> list[str]:
    """The words of the command line that makes the same attacks."""
    given = {
        "--budget": None if budget == "quick" else budget,
        "--data": data,
        "--retrained": retrained,
        "--seed": seed,
    }
    options = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    return ["erase", "probe", str(run), *probes, *options]


def budget_of(
    original: DiT, record: Mapping[str, Any], config: Any, *, amount: Amount, data: str | None, progress: bool
) -> Budget:
    """What the attacker has, under the protocol that scored the run."""
    asked = dict(record["asked"])
    protocol = Protocol(**asked.pop("protocol"))
    latents, forget = images_of(original, config, data or config.data, cache_dir=cache_dir(), progress=progress)
    others = retained_classes(original.provenance, config.forget_classes, num_classes=original.num_classes)
    images = latents.of_classes(others).joined(forget) if config.retain_images else latents
    scorer = protocol_scorer(original, protocol, Judges(**asked))
    return Budget(
        original=original, protocol=protocol, scorer=scorer, amount=amount, images=images, seed=config.seed,
        cache_dir=cache_dir(),
    )  # fmt: skip


def check_images(budget: Budget, config: ErasureConfig, *, data: str | None) -> None:
    """Refuse images of the attacker's own that show not every erased class (``UsageError``)."""
    if data is None or budget.images is None:
        return
    names, owned = budget.original.classes, set(budget.images.class_labels.tolist())
    if lacking := [names[label].name for label in config.forget_classes if label not in owned]:
        raise UsageError(f"--data {data} holds no image of {listed(lacking)}, which an attacker is to have")


def attack(
    names: Sequence[str],
    models: Mapping[str, DiT],
    forget_classes: Sequence[int],
    budget: Budget,
    *,
    controls: Mapping[str, tuple[DiT, int]],
    progress: bool,
) -> dict[str, dict[int, dict[str, Outcome]]]:
    """Every probe on every erased class of the models and its row reset; controls are the same for all of them."""
    count = len(names) * (len(forget_classes) * (len(models) + 1) + len(controls))
    found: dict[str, dict[int, dict[str, Outcome]]] = {name: {} for name in names}
    with bar_of(count, "probing", unit="attack", shown=progress) as bar:
        for label in forget_classes:
            targets = {who: (model, label) for who, model in subjects_of(models, label).items()}
            for name in names:
                found[name][label] = outcomes_of(name, targets, budget, bar)
        for name in names:
            control = outcomes_of(name, controls, budget, bar)
            found[name] = {label: {**rows, **control} for label, rows in found[name].items()}
    return found


def outcomes_of(name: str, targets: Mapping[str, tuple[DiT, int]], budget: Budget, bar: Any) -> dict[str, Outcome]:
    """One probe on models and a class of each."""
    found = {}
    for who, (model, label) in targets.items():
        bar.set_postfix_str(f"{name} on {who}", refresh=True)
        found[who] = kept_attack(name, model, label, budget)
        bar.update()
    return found


def kept_attack(name: str, model: DiT, class_label: int, budget: Budget) -> Outcome:
    """One attack, from the cache where the same was made before."""
    path = probe_dir() / f"{name}-{attack_key(name, model, class_label, budget)}.safetensors"
    if is_safetensors(path):
        return load_outcome(path)
    result = load_probe(name)(model, class_label, budget)
    facts = {**result.to_dict(), "detail": dict(result.detail)}
    save_tensors(path, {"pictures": result.pictures}, kind=KIND, metadata=facts)
    return Outcome(result, path)


def attack_files() -> list[Path]:
    """The code that makes outcomes: all probes, which take functions of one another, and what they measure by."""
    folder = Path(attacker.__file__).parent
    return [*sorted(folder.glob("probes/*.py")), *(folder / f"{name}.py" for name in ("attacker", "evaluate", "probe"))]


def attack_key(name: str, model: DiT, class_label: int, budget: Budget) -> str:
    """Twelve hex digits of everything that an outcome depends on, the code of the attack among it."""
    behaviours = [model.behaviour(), budget.original.behaviour()]
    facts = [
        name,
        [file_digest(path) for path in attack_files()],
        class_label,
        behaviours,
        weights_sha256(model.transformer),
        weights_sha256(budget.original.transformer),
        budget.protocol.to_dict(),
        budget.scorer.name,
        asdict(budget.amount),
        budget.num_images,
        budget.seed,
        "" if budget.images is None else budget.images.key,
    ]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
