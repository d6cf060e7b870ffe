"""Jobs files: every refusal names file and line before anything runs, and a list of values is a grid."""

import shutil

import pytest
import torch

from erase.batch.jobs import Executor, read_jobs, with_executor
from erase.batch.plan import make_plan
from eval.moments import Moments
from eval.reference import names_digest
from pipelines.errors import MissingError, UsageError

MINIMAL = "runs:\n  - model: digits\n    classes: [three]\n"


@pytest.fixture
def written(tmp_path):
    """``written(text)``: a jobs file."""

    def write(text):
        path = tmp_path / "jobs.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (f"{MINIMAL}metriks: [kid]\n", 4, "unknown key 'metriks'; did you mean 'metrics'? the keys of a jobs file are"),
        (f"{MINIMAL}    method: [salun]\n", 4, "unknown key 'method'; did you mean 'methods'?"),
        (f"{MINIMAL}colour: red\n", 4, "unknown key 'colour'; the keys of a jobs file are"),
        (
            f"{MINIMAL}    sedes: [0]\n",
            4,
            "unknown key 'sedes'; did you mean 'seeds'? the keys of an entry of runs are model, methods",
        ),
        (f"{MINIMAL}metrics: [fid]\n", 4, "'fid' is not one of"),
        (f"{MINIMAL}    methods:\n      - salun\n      - magic\n", 6, "magic"),
        (f"{MINIMAL}    seeds: [one]\n", 4, "a seed is a whole number"),
        (f"{MINIMAL}    settings:\n      seed: 3\n", 5, "seeds are given as seeds of the entry"),
        (f"{MINIMAL}executor: cloud\n", 4, "'cloud' is not one of local, processes, slurm"),
        (f"{MINIMAL}protocols: [tiny]\n", 4, "--protocol 'tiny' is not one of"),
        (f"{MINIMAL}protocols:\n  - name: small\n    sampler: euler\n", 5, "euler"),
        (f"{MINIMAL}output: a\noutput: b\n", 5, "'output' stands twice"),
        (f"{MINIMAL}columns: [fid]\n", 4, "'fid' is not one of"),
        (f"{MINIMAL}probes:\n  - budget: huge\n", 5, "'huge' is not one of quick, full"),
        (f"{MINIMAL}probes:\n  - budget: full\n  - budget: quick\n", 4, "give all probes the same budget"),
        ("runs: [\n", 2, "expected"),
        ("output: here\n", 1, "needs runs to make or models to score"),
        ("runs:\n  - classes: [three]\n", 2, "needs model"),
        ("models:\n  - classes: [three]\n", 2, "needs a path"),
    ],
)
def test_what_a_jobs_file_gets_wrong_is_named_with_its_line(written, text, line, sentence):
    with pytest.raises(UsageError) as raised:
        read_jobs(written(text))
    assert f"jobs.yaml, line {line}: " in str(raised.value) and sentence in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("runs:\n  - model: gone/for/good\n    classes: [three]\n", 2, "gone/for/good"),
        ("runs:\n  - model: digits\n    classes:\n      - three\n      - eleventeen\n", 5, "eleventeen"),
        (f"{MINIMAL}    settings:\n      stepps: 3\n", 4, "did you mean --steps"),
        (f"{MINIMAL}models:\n  - path: nothing-*\n", 5, "no model fits nothing-*"),
        (f"{MINIMAL}models:\n  - path: digits\n", 5, "does not say what it was erased from"),
        (f"{MINIMAL}reference: unlike.npz\n", 4, "holds inception features, not those of digits"),
        (f"{MINIMAL}reference: others.npz\n", 4, "was made for a model with other class names than digits"),
        (f"{MINIMAL}reference: gone.npz\n", 4, "gone.npz does not exist"),
        (f"{MINIMAL}protocols: [quick]\n", 4, "needs the Inception weights"),
    ],
)
def test_what_does_not_fit_the_models_is_named_with_its_line(written, monkeypatch, tmp_path, text, line, sentence):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    features = Moments(2).update(torch.eye(2))
    features.save(tmp_path / "unlike.npz", meta={"feature_space": "inception"})
    features.save(tmp_path / "others.npz", meta={"feature_space": "digits", "classes": names_digest(["cat", "dog"])})
    with pytest.raises((UsageError, MissingError)) as raised:
        make_plan(read_jobs(written(text)))
    assert f"jobs.yaml, line {line}: " in str(raised.value) and sentence in str(raised.value)
    assert not (tmp_path / "jobs").exists()


def test_models_of_unlike_classes_are_refused(written, tiny_folder, tmp_path):
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = other / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_embeds_ada_norm": 10', '"num_embeds_ada_norm": 12'))
    entry = "models:\n  - path: other\n    original: digits\n    classes:\n      - three\n"
    with pytest.raises(UsageError, match=r"jobs.yaml, line 5: .*other has 12 classes, its original digits has 10"):
        make_plan(read_jobs(written(entry)))


def test_an_absent_or_empty_file_is_refused(written, tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        read_jobs(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is empty"):
        read_jobs(written("# nothing\n"))


def test_lists_of_values_are_grids(written):
    text = f"{MINIMAL}    seeds: [0, 1]\n    methods: [salun, sfron]\n    settings:\n      steps: [10, 20]\n"
    text += "protocols:\n  - name: small\n    guidance_scale: [1.0, 1.5]\n    num_inference_steps: [5, 10]\n"
    plan = make_plan(read_jobs(written(text)))
    assert len(plan.of_kind("run")) == 8 and len(plan.of_kind("record")) == 8 * 4
    assert {each.settings for each in plan.subjects} == {"steps 10", "steps 20"}
    assert {len(unit.needs) for unit in plan.of_kind("shard") if unit.draw.side == "original"} == {0}

    # The original's images serve every run of the class.
    shards = plan.of_kind("shard")
    assert len(shards) == 4 * (8 + 1) * 8  # protocols, models, shards of 250 of 2,000 images


def test_the_command_line_goes_before_the_file(written):
    jobs = read_jobs(written(f"{MINIMAL}executor:\n  name: slurm\n  workers: 8\n  partition: main\n"))
    assert jobs.executor == Executor(name="slurm", workers=8, partition="main")
    assert with_executor(jobs, name="local", workers=None).executor.name == "local"
    assert with_executor(jobs, name="processes", workers=2).executor.workers == 2
    with pytest.raises(UsageError, match="--workers 2 has no effect with --executor local"):
        with_executor(jobs, name="local", workers=2)


def test_paths_are_those_beside_the_file(written, tmp_path):
    (tmp_path / "real").mkdir()
    jobs = read_jobs(written(f"{MINIMAL}reference: real\noutput: table\n"))
    assert jobs.judged_by().reference == str(tmp_path / "real") and jobs.output == tmp_path / "table"


def test_what_several_runs_share_is_prepared_once(written):
    text = f"{MINIMAL}    seeds: [0, 1]\n    methods: [salun, retain_posterior]\n"
    (images,) = make_plan(read_jobs(written(text))).of_kind("preparation")
    runs = make_plan(read_jobs(written(text))).of_kind("run")
    assert not images.posterior and all(run.needs == (images.name,) for run in runs)

    # A posterior is of a seed: it is shared by the runs that differ in classes or settings.
    plan = make_plan(read_jobs(written(text.replace("[three]", "[three, five]"))))
    kinds = [unit.posterior for unit in plan.of_kind("preparation")]
    assert sorted(kinds) == [False, True, True]
    assert {len(run.needs) for run in plan.of_kind("run") if run.request.config.method == "retain_posterior"} == {2}
    (alone,) = make_plan(read_jobs(written(MINIMAL))).of_kind("run")
    assert alone.needs == ()
