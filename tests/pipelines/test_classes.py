"""Class names: a table of queries with their outcome, over ImageNet and over ten digits; enrichment; siblings."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from timm.data import ImageNetInfo

from pipelines.classes import AmbiguousClassError, ClassNames, UnknownClassError
from pipelines.errors import MissingError, UsageError
from pipelines.imagenet import imagenet_classes, package_dir, timm_table
from pipelines.names import normalise

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def wordnet_labels() -> dict[str, str]:
    """ImageNet as a diffusers DiT holds it: ``id2label`` with all synonyms."""
    return {str(entry.index): ", ".join(entry.names) for entry in imagenet_classes()}


def torchvision_labels() -> tuple[str, ...]:
    """ImageNet as torchvision holds it: one name a class, some of its own."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


@pytest.fixture(scope="module", params=[wordnet_labels, torchvision_labels, "wnids"])
def imagenet(request: pytest.FixtureRequest) -> ClassNames:
    """The same 1000 classes from three kinds of label: the outcome of a query must not depend on the kind."""
    labels = [entry.wnid for entry in imagenet_classes()] if request.param == "wnids" else request.param()
    return ClassNames(labels)


@pytest.fixture(scope="module")
def digits() -> ClassNames:
    return ClassNames({str(index): name for index, name in enumerate(DIGITS)})


IMAGENET_FOUND = [
    (207, 207), ("207", 207), (" 207 ", 207), ("#207", 207), ("+207", 207), ("007", 7), (0, 0), (999, 999),
    ("999", 999), (np.int64(207), 207),
    ("n02099601", 207), ("N02099601", 207), (" n02099601 ", 207), ("n03126707", 517),
    ("golden retriever", 207), ("Golden Retriever", 207), ("GOLDEN RETRIEVER", 207), ("golden_retriever", 207),
    ("golden-retriever", 207), ("golden  retriever", 207), ("\tgolden retriever\n", 207),
    ("golden\u2010retriever", 207),
    ("goldfish", 1), ("Carassius auratus", 1), ("tench", 0), ("tench, Tinca tinca", 0), ("tinca tinca", 0),
    ("crane bird", 134), ("arctic fox", 279), ("white fox", 279), ("Alopex lagopus", 279), ("white wolf", 270),
    ("otter", 360), ("sulphur-crested cockatoo", 89), ("sulphur crested cockatoo", 89), ("kakatoe galerita", 89),
    ("jack-o'-lantern", 607), ("jack-o\u2019-lantern", 607), ("jack o lantern", 607), ("carpenter's kit", 477),
    ("carpenters kit", 477), ("yellow lady's slipper", 986), ("St. Bernard", 247), ("Saint Bernard", 247),
    ("Cardigan Welsh corgi", 264), ("tank suit", 639), ("maillot, tank suit", 639), ("maillot tank suit", 639),
    ("projectile", 744), ("CD player", 485), ("R.V.", 757), ("jersey", 610),
]  # fmt: skip

# (query, error, what its message must say)
IMAGENET_REFUSED = [
    ("crane", AmbiguousClassError, ["names 2 classes", "134  n02012849", "517  n03126707", "wading bird"]),
    ("Crane", AmbiguousClassError, ["134", "517"]),
    ("cardigan", AmbiguousClassError, ["264", "474", "knitted jacket"]),
    ("Cardigan", AmbiguousClassError, ["264", "474"]),
    ("missile", AmbiguousClassError, ["657", "744"]),
    ("partridge", AmbiguousClassError, ["82", "86"]),
    ("harp", AmbiguousClassError, ["593", "594"]),
    ("maillot", AmbiguousClassError, ["638", "639"]),
    ("panther", AmbiguousClassError, ["286", "290"]),
    ("Sus scrofa", AmbiguousClassError, ["341", "342"]),
    ("cockatoo", UnknownClassError, ["contain it", "89  n01819313", "sulphur-crested cockatoo"]),
    ("retriever", UnknownClassError, ["contain it", "205", "206", "207", "208", "209"]),
    ("terrier", UnknownClassError, ["and 14 more", "`erase classes 'terrier'`"]),
    ("retrievers", UnknownClassError, ["spelt alike", "207"]),
    ("goldfishes", UnknownClassError, ["spelt alike", "1  n01443537"]),
    ("golden retreiver", UnknownClassError, ["spelt alike", "207"]),
    ("goldn_retriver", UnknownClassError, ["spelt alike", "207"]),
    ("golden retriever (erased)", UnknownClassError, ["no class is called 'golden retriever (erased)'"]),
    ("golden dog", UnknownClassError, ["no class is called 'golden dog'"]),
    ("Goldener Retriever", UnknownClassError, ["spelt alike", "207"]),
    ("\u91d1\u6bdb", UnknownClassError, ["an index 0 to 999, a wnid or an exact class name"]),
    ("zorro \u00e1rtico", UnknownClassError, ["no class is called"]),
    ("xyzzy", UnknownClassError, ["give an index 0 to 999", "`erase classes WORD`"]),
    ("n99999999", UnknownClassError, ["no class has the wnid 'n99999999'"]),
    ("207.0", UnknownClassError, ["no class is called '207.0'"]),
    ("", UsageError, ["is empty", "0 to 999"]),
    ("  \t", UsageError, ["is empty"]),
    (1000, UsageError, ["is the null class", "0 to 999"]),
    ("1000", UsageError, ["is the null class", "'no class'"]),
    ("null", UsageError, ["is the null class"]),
    (1001, UnknownClassError, ["1001 is out of range", "0 to 999"]),
    ("99999999999", UnknownClassError, ["out of range", "0 to 999"]),
    (-1, UnknownClassError, ["-1 is out of range", "0 to 999"]),
    ("-1", UnknownClassError, ["-1 is out of range"]),
    (True, UsageError, ["True is a bool"]),
    (207.0, UsageError, ["207.0 is a float"]),
    (None, UsageError, ["None is a NoneType"]),
]

DIGITS_FOUND = [
    (3, 3), ("3", 3), ("#3", 3), ("three", 3), ("Three", 3), (" THREE ", 3), ("zero", 0), ("0", 0), ("nine", 9), (9, 9),
]  # fmt: skip

EVERY_DIGIT = "zero, one, two, three, four, five, six, seven, eight, nine"
DIGITS_REFUSED = [
    ("thre", UnknownClassError, ["3 three", "spelt alike", EVERY_DIGIT]),
    ("threes", UnknownClassError, ["3 three", EVERY_DIGIT]),
    ("drei", UnknownClassError, [EVERY_DIGIT]),
    ("golden retriever", UnknownClassError, ["no class is called 'golden retriever'", EVERY_DIGIT]),
    ("n02099601", UnknownClassError, ["no class has the wnid", EVERY_DIGIT]),
    ("10", UsageError, ["is the null class", "0 to 9"]),
    (10, UsageError, ["is the null class", "0 to 9"]),
    (11, UnknownClassError, ["out of range", "0 to 9", EVERY_DIGIT]),
    (207, UnknownClassError, ["207 is out of range"]),
    ("-3", UnknownClassError, ["out of range"]),
    ("", UsageError, ["is empty", EVERY_DIGIT]),
    (False, UsageError, ["False is a bool"]),
    (3.0, UsageError, ["3.0 is a float"]),
]


@pytest.mark.parametrize(("query", "index"), IMAGENET_FOUND)
def test_imagenet_query_finds_its_class(imagenet: ClassNames, query: str | int, index: int | None) -> None:
    if index is None:
        with pytest.raises(UsageError):
            imagenet.resolve(query)
    else:
        assert imagenet.resolve(query) == index


@pytest.mark.parametrize(("query", "error", "phrases"), IMAGENET_REFUSED)
def test_imagenet_query_is_refused(imagenet: ClassNames, query: str, error: type, phrases: list[str]) -> None:
    assert_refused(imagenet, query, error, phrases)


@pytest.mark.parametrize(("query", "index"), DIGITS_FOUND)
def test_digit_query_finds_its_class(digits: ClassNames, query: str | int, index: int) -> None:
    assert digits.resolve(query) == index


@pytest.mark.parametrize(("query", "error", "phrases"), DIGITS_REFUSED)
def test_digit_query_is_refused(digits: ClassNames, query: str, error: type, phrases: list[str]) -> None:
    assert_refused(digits, query, error, phrases)


def assert_refused(names: ClassNames, query: str, error: type, phrases: list[str]) -> None:
    """The exact error type, the value in the message, and every phrase."""
    with pytest.raises(UsageError) as raised:
        names.resolve(query)
    message = str(raised.value)
    assert type(raised.value) is error
    assert (repr(query) in message) or (str(query).strip() in message)
    for phrase in phrases:
        assert phrase in message
    assert len(message.splitlines()[0]) < 250


def test_six_classes_have_no_unique_name(imagenet: ClassNames) -> None:
    unnamed = [entry.index for entry in imagenet if all(len(imagenet.matches(name)) > 1 for name in entry.names)]
    assert unnamed == [86, 474, 517, 594, 638, 657]
    names = {normalise(name) for entry in imagenet_classes() for name in entry.names}
    assert sum(len(imagenet.matches(name)) > 1 for name in names) == 19
    assert all(imagenet.resolve(entry.wnid) == entry.index for entry in imagenet)


def test_entry_carries_what_is_known() -> None:
    entry = ClassNames(wordnet_labels())[207]
    assert (entry.index, entry.name, entry.wnid) == (207, "golden retriever", "n02099601")
    assert "long silky golden coat" in entry.definition
    crane = ClassNames(torchvision_labels())[134]
    assert (crane.name, crane.synonyms, crane.label) == ("crane bird", ("crane",), "crane bird")
    assert ClassNames(DIGITS)[3].definition is None
    with pytest.raises(IndexError):
        ClassNames(DIGITS)[10]


def test_imagenet_is_told_by_names_not_by_count() -> None:
    assert ClassNames([f"thing {index}" for index in range(1000)])[207].wnid is None
    assert ClassNames(torchvision_labels()[::-1])[207].wnid is None
    assert ClassNames(torchvision_labels()[:999])[207].wnid is None
    changed = ClassNames([*torchvision_labels()[:207], "my dog", *torchvision_labels()[208:]])
    assert changed[206].wnid == "n02099429"
    assert changed[207].wnid is None and changed.resolve("my dog") == 207
    with pytest.raises(UnknownClassError):
        changed.resolve("golden retriever")


def test_wnid_labels_of_a_subset_are_enriched() -> None:
    names = ClassNames(("n02979186", "n02102040", "n00000001"))
    assert (names[1].name, names.resolve("English springer"), names.resolve("n02979186")) == ("English springer", 1, 0)
    assert names[2].wnid is None and names.resolve("n00000001") == 2


def test_a_number_that_is_also_a_name() -> None:
    """Sorted folder names put class "10" at index 1: neither reading is picked."""
    names = ClassNames(("1", "10", "2", "3"))
    with pytest.raises(AmbiguousClassError, match="#1 or #0"):
        names.resolve("1")
    assert names.resolve("#1") == 1 and names.resolve(1) == 1
    assert names.resolve("10") == 1
    assert [names.resolve_folder(folder) for folder in ("1", "10", "2", "3")] == [0, 1, 2, 3]


def test_folders_that_differ_in_case_only() -> None:
    letters = ClassNames(("A", "a", "B"))
    assert [letters.resolve_folder(name) for name in ("A", "a", "b")] == [0, 1, 2]
    with pytest.raises(AmbiguousClassError):
        letters.resolve("A")
    with pytest.raises(AmbiguousClassError):
        ClassNames(torchvision_labels()).resolve_folder("Cardigan")


def test_search_related_siblings() -> None:
    names, digits = ClassNames(wordnet_labels()), ClassNames(DIGITS)
    assert [entry.index for entry in names.search("retriever")] == [205, 206, 207, 208, 209]
    assert [entry.index for entry in names.search("retreiver")] == [205, 206, 207, 208, 209]
    assert names.search("207")[0].index == names.search("n02099601")[0].index == 207
    assert [entry.index for entry in names.search("crane")][:2] == [134, 517]
    assert len(digits.search("")) == 10 and digits.search("xyzzy") == []
    assert names.related(207) == [205, 206, 208, 209]
    assert names.related(279)[:3] == [277, 278, 280] and 279 not in names.related(279, limit=999)
    assert digits.related(3) == []


def test_siblings_are_the_published_co_labels() -> None:
    """83 % of the images of 744 projectile also show 657 missile; 79 % the other way round."""
    names = ClassNames(wordnet_labels())
    assert [(index, round(share, 2)) for index, share in names.siblings(657)] == [(744, 0.83)]
    assert [(index, round(share, 2)) for index, share in names.siblings(744)] == [(657, 0.79)]
    assert names.siblings(207) == [] and ClassNames(DIGITS).siblings(3) == []
    subset = ClassNames(("n02099601", "n04008634", "n03773504"))
    assert [(index, round(share, 2)) for index, share in subset.siblings(2)] == [(1, 0.83)]


@pytest.mark.parametrize("labels", [(), {}, ("cat", ""), ("cat", 3), "cat", {"0": "cat", "2": "dog"}])
def test_malformed_labels_are_refused(labels: object) -> None:
    with pytest.raises(UsageError):
        ClassNames(labels)


def test_container_behaviour(digits: ClassNames) -> None:
    assert len(digits) == digits.null_class == 10
    assert [entry.name for entry in digits] == list(DIGITS)
    assert pickle.loads(pickle.dumps(digits)) == digits == ClassNames(DIGITS)
    assert hash(digits) == hash(ClassNames(DIGITS))
    assert "10 classes" in repr(digits)
    assert ClassNames.imagenet().labels == tuple(wordnet_labels().values())


def test_the_tables_are_those_of_the_two_packages() -> None:
    """They are read as files, whose places are no public interface."""
    info, names = ImageNetInfo("imagenet-1k"), torchvision_labels()
    assert [entry.wnid for entry in imagenet_classes()] == info.label_names()
    for entry in imagenet_classes():
        lemmas = info.label_name_to_description(entry.wnid)
        assert entry.names == tuple(dict.fromkeys([*lemmas.split(", "), names[entry.index]]))
        assert f"{lemmas}: {entry.definition}" == info.label_name_to_description(entry.wnid, detailed=True)


def test_a_model_of_digits_imports_nothing_heavy() -> None:
    code = "\n".join([
        "import sys",
        "from pipelines.classes import ClassNames",
        f"names = ClassNames({DIGITS!r})",
        "assert names.resolve('three') == 3 and names.search('thre') and not names.siblings(3)",
        "assert ClassNames([f'class {i}' for i in range(1000)]).resolve(207) == 207",
        "assert not {'timm', 'torchvision', 'torch'} & set(sys.modules)",
    ])  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_table_or_a_package_that_is_missing_is_named():
    with pytest.raises(MissingError, match=r"imagenet22k_prices.txt is missing: .* timm"):
        timm_table("imagenet22k_prices.txt")
    with pytest.raises(MissingError, match=r"package no_such_package, which is missing"):
        package_dir("no_such_package")
