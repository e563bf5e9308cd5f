"""What is near a model that does not exist: in any case, with or without its organisation, or a part of its name."""

import pytest

from gomodel.balancing.near_models import likeness, near

LISTED = ["meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct-AWQ", "demo/llama-sim", "m"]
# More than are compared one by one, and what is meant comes last.
MANY = [f"org/adapter-{at:04}" for at in range(5000)] + LISTED


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("meta-llama/Llama-3.1-8B", LISTED[0]),
        ("Llama-3.1-8B", LISTED[0]),
        ("llama-3.1-8b", LISTED[0]),
        ("LLAMA-3.1-8B-INSTRUCT", LISTED[0]),
        ("meta/Llama-3.1-8B-Instruct", LISTED[0]),
        ("meta-llama/llama-3.1-8b-instruct", LISTED[0]),
        ("qwen2.5", LISTED[1]),
        ("Qwen2.5-7B-Instruct", LISTED[1]),
        ("llama", "demo/llama-sim"),
        ("demo/lama-sim", "demo/llama-sim"),
        ("LLAMA-SIM", "demo/llama-sim"),
        ("M", "m"),
        ("/m", "m"),
    ],
)
@pytest.mark.parametrize("models", [LISTED, MANY], ids=["few", "many"])
def test_what_is_meant_is_among_the_suggestions(models, wanted, meant):
    assert meant in near(wanted, models)


@pytest.mark.parametrize("wanted", ["zzzzzzzz", "gpt-4o", "", "/", "\x00", "\ud800", "x" * 100_000])
@pytest.mark.parametrize("models", [LISTED, MANY, []], ids=["few", "many", "none"])
def test_what_is_like_nothing_gets_no_suggestion(models, wanted):
    assert near(wanted, models) == []


def test_the_best_come_first_and_no_more_than_three():
    models = ["m-10", "m-11", "m-1", "m-12"]
    assert near("m-1", models) == ["m-1", "m-10", "m-11"]


@pytest.mark.parametrize("wanted", ["org/adapter-7777", "x" * 256, "org/adapter", "a" * 128, "org/" + "ab" * 80])
@pytest.mark.parametrize("name", ["org/adapter-{}", "org/" + "ba" * 80 + "{}", "{}"])
def test_of_many_models_few_are_compared_letter_by_letter_and_never_far(monkeypatch, wanted, name):
    """One comparison of two long names costs as much as a request."""
    from gomodel.balancing import near_models

    compared, counted = [], []

    class Matcher(near_models.SequenceMatcher):
        def ratio(self):
            compared.append(len(self.a) + len(self.b))
            return super().ratio()

        def quick_ratio(self):
            counted.append(len(self.a) + len(self.b))
            return super().quick_ratio()

    monkeypatch.setattr(near_models, "SequenceMatcher", Matcher)
    near(wanted, (name.format(at) for at in range(20_000)))
    assert len(compared) <= 2 * 10
    assert len(counted) <= 2 * 100
    assert max(compared + counted) <= 2 * 64


def test_likeness_heeds_no_case():
    assert likeness("VLLM", "vllm") == likeness("vllm", "VLLM") == 1
    assert likeness("meta-llama", "vllm") < 0.5 < likeness("vlm", "vllm")
