"""Named protocols, their differences, and the plan of images that follows from one."""

from collections import Counter
from dataclasses import FrozenInstanceError, replace

import pytest

from eval.plan import check_forget_classes, image_seed, plan_requests, shard
from eval.protocol import PROTOCOLS, Protocol, differences, named
from pipelines.errors import UsageError


def test_names_are_the_keys_and_every_protocol_builds_its_sampler():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.sampler_settings().num_inference_steps == protocol.num_inference_steps


def test_paper_is_the_published_setting():
    paper = named("paper")
    settings = (paper.sampler, paper.num_inference_steps, paper.guidance_scale, paper.guided_channels)
    assert settings == ("ddpm", 250, 1.5, 3)
    assert (paper.num_retain_images, paper.label_draw, paper.classifier) == (10_000, "uniform", "resnet34.tv_in1k")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="paper, full, quick, small"):
        named("clean")


@pytest.mark.parametrize(
    "change", [{"num_forget_images": 0}, {"label_draw": "sorted"}, {"first_seed": -1}, {"guidance_scale": -1.0}]
)
def test_values_without_meaning_are_refused(change):
    with pytest.raises(UsageError):
        replace(named("small"), **change)


def test_a_protocol_is_frozen():
    with pytest.raises(FrozenInstanceError):
        named("small").first_seed = 1


def test_an_interval_of_guidance_is_part_of_the_protocol_where_there_is_one():
    small = named("small")
    limited = replace(small, guidance_scale=4.0, guidance_start=0.2, guidance_end=0.8)
    assert not {"guidance_start", "guidance_end"} & set(small.to_dict())
    assert limited.to_dict()["guidance_start"] == 0.2 and limited.to_dict()["guidance_end"] == 0.8
    assert [Protocol(**each.to_dict()) for each in (small, limited)] == [small, limited]
    assert limited.sampler_settings().network_rows() == 20 + 12
    assert limited.unguided().sampler_settings().network_rows() == 20
    assert differences(small.to_dict(), limited.to_dict())["guidance_end"] == (1.0, 0.8)


def test_differences_name_what_differs_and_ignore_the_note():
    full, quick = named("full").to_dict(), named("quick").to_dict()
    found = differences(full, quick)
    assert found["sampler"] == ("ddpm", "ddim")
    assert "note" not in found and "label_draw" not in found
    assert differences(full, {**full, "note": "x"}) == {}
    assert differences(full, {**full, "extra": 1}) == {"extra": (None, 1)}


def test_every_prefix_of_a_balanced_plan_is_balanced():
    protocol = replace(named("small"), num_forget_images=7, num_retain_images=50)
    requests = plan_requests(protocol, num_classes=10, forget_classes=[3, 8])
    forget, retain = requests[:14], requests[14:]
    assert Counter(label for label, _ in forget) == {3: 7, 8: 7}
    for length in (8, 13, 50):
        counts = Counter(label for label, _ in retain[:length])
        assert max(counts.values()) - min(counts.values()) <= 1
        assert not {3, 8} & set(counts)


def test_no_image_is_drawn_twice_and_seeds_do_not_depend_on_the_other_classes():
    protocol = replace(named("small"), num_forget_images=20, num_retain_images=45)
    one = plan_requests(protocol, num_classes=10, forget_classes=[3])
    two = plan_requests(protocol, num_classes=10, forget_classes=[3, 8])
    seeds = [seed for _, seed in one]
    assert len(set(seeds)) == len(seeds)
    assert {request for request in one if request[0] == 5} <= {request for request in two if request[0] == 5} | {
        (5, image_seed(0, 5, number)) for number in range(5)
    }
    assert one[0] == two[0] == (3, image_seed(0, 3, 0))


def test_uniform_labels_are_random_but_fixed_by_the_first_seed():
    protocol = replace(named("small"), label_draw="uniform", num_retain_images=900)
    counts = Counter(label for label, _ in plan_requests(protocol, num_classes=10, forget_classes=[3])[1000:])
    assert set(counts) == set(range(10)) - {3}
    assert len(set(counts.values())) > 1
    again = plan_requests(protocol, num_classes=10, forget_classes=[3])
    assert again == plan_requests(protocol, num_classes=10, forget_classes=[3])
    assert again != plan_requests(replace(protocol, first_seed=1), num_classes=10, forget_classes=[3])


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_shards_in_order_are_the_whole_plan(count):
    requests = plan_requests(replace(named("small"), num_forget_images=3), num_classes=10, forget_classes=[0])
    parts = [shard(requests, index, count) for index in range(count)]
    assert [request for part in parts for request in part] == requests
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("classes", [[], [10], [-1], [3, 3], list(range(10))])
def test_forget_classes_without_meaning_are_refused(classes):
    with pytest.raises(UsageError):
        check_forget_classes(classes, 10)
