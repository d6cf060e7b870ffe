"""The sections of a model card that a result record fills: scores before and after, and what attacks brought back."""

from collections.abc import Iterable

from pipelines.text import listed, markdown_table

from .by_class import covers_all
from .metric import displays, title
from .probe import describe_probe
from .recovery import recovery, verdict
from .words import FIRST, Record, attacked_name, behind, caution, class_name, ordered_keys, returned, with_interval

RESTORE = "embedding_restore"  # the attack of every run: it stands among the scores
SUBJECTS = ("original", "embedding_reset", "retrained", "erased", "control")  # columns of the table of attacks


def card_sections(record: Record) -> list[str]:
    """Markdown of everything that a record knows: scores with their protocol, then each attack beside its controls."""
    rows = [*score_rows(record), *earlier_rows(record), *restore_rows(record)]
    found = ["## Scores", protocol_words(record)]
    found.append(markdown_table(("score", "better", "before", "after"), rows, text_columns=2))
    found += [words for words in (neighbour_words(record), skipped_words(record), caution(record)) if words]
    attacks = [name for name in record["probes"] if name != RESTORE]
    if not attacks:
        return [*found, "No attack but the row put back was run: `erase probe` runs the others."]
    return [*found, "## Attacks", attack_table(record, attacks), *control_words(record, attacks)]


def protocol_words(record: Record) -> str:
    """How the scores were measured, in three sentences."""
    protocol, reference = record["protocol"], record["reference"]
    guidance = protocol["guidance_scale"]
    guided = "no guidance" if guidance == 1 else f"guidance {guidance:g} on {protocol['guided_channels']} channels"
    if guidance != 1 and {"guidance_start", "guidance_end"} & set(protocol):
        begins, ends = protocol.get("guidance_start", 0), protocol.get("guidance_end", 1)
        guided += f" from {100 * begins:g} % to {100 * ends:g} % of the steps"
    return (
        f"Protocol `{protocol['name']}`: {protocol['sampler']} in {protocol['num_inference_steps']} steps, {guided}; "
        f"{protocol['num_forget_images']:,} images of each erased class and {protocol['num_retain_images']:,} of all "
        f"others together, the same noise before and after, seeds from {protocol['first_seed']}. Classifier "
        f"{protocol['classifier']}; reference: {reference['description']}. In brackets the 95 % interval."
    )


def score_rows(record: Record) -> Iterable[tuple[str, ...]]:
    """The most telling values of both models."""
    for key in ordered_keys(record):
        if key in FIRST:
            show = displays()[key]
            values = (with_interval(record[model][key], show.unit) for model in ("original", "erased"))
            yield title(key, record["feature_space"]), show.better, *values


def earlier_rows(record: Record) -> Iterable[tuple[str, ...]]:
    """Forget accuracy of the classes that earlier erasures removed."""
    for label, entry in record.get("earlier", {}).items():
        values = (with_interval(entry[model], "share") for model in ("original", "erased"))
        name = f"Forget accuracy of {class_name(record, label)}, erased before: {returned(entry)}"
        yield name, "lower", *values


def restore_rows(record: Record) -> Iterable[tuple[str, ...]]:
    """Forget accuracy once the original label row is put back."""
    if RESTORE in record["probes"]:
        entries = record["probes"][RESTORE]
        values = (with_interval(entries[model], "share") for model in ("original", "erased"))
        name = behind("Forget accuracy, original label row put back", attacked_name(record, entries))
        yield name, "lower", *values


def neighbour_words(record: Record) -> str:
    """Which classes count as neighbours."""
    names = listed([class_name(record, label) for label in record["neighbours"]])
    return f"Neighbours: {names}." if names else ""


def skipped_words(record: Record) -> str:
    """What was not measured, and why."""
    reasons = "; ".join(f"{name.replace('_', ' ')} ({why})" for name, why in record["skipped"].items())
    return f"Not measured: {reasons}." if reasons else ""


def attack_table(record: Record, attacks: Iterable[str]) -> str:
    """How often the class was recognised after each attack, on every model that was attacked."""
    shown = [who for who in SUBJECTS if any(who in record["probes"][name] for name in attacks)]
    rows = []
    for name in attacks:
        entries = record["probes"][name]
        outcome = verdict(name, recovery(entries))
        cells = (with_interval(entries[who], "share") if who in entries else "" for who in shown)
        about = attacked_name(record, entries)
        alone = "" if covers_all(record, name) else " alone"
        rows.append((behind(describe_probe(name), about and about + alone), outcome, *cells))
    return markdown_table(("attack", "verdict", *(who.replace("_", " ") for who in shown)), rows, text_columns=2)


def control_words(record: Record, attacks: Iterable[str]) -> Iterable[str]:
    """What the columns of the attacks are, and what each attacker could spend."""
    yield (
        "Shown is how often the class is recognised after the attack. `embedding reset` is the trivial baseline, "
        "`control` a retained class of the erased model."
    )
    if len(record["forget_classes"]) > 1:
        yield "Each erased class was attacked by itself; the one in brackets is that of which most came back."
    budgets = {record.get("attacks", {}).get(name, {}).get("budget", {}).get("name") for name in attacks} - {None}
    if budgets:
        yield f"Budget of the attacks: {listed(sorted(budgets))}."
