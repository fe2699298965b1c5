"""What can be varied, and how it is written."""

import optuna
import pytest

from metaq.errors import InputError, RecipeError
from metaq.experiments.recipe import as_tree, known_recipes, load_recipe
from metaq.experiments.sweeps.ranges import Choices, Numbers, default_ranges, parse_range, placed

RECIPE = load_recipe("lenet5-digits")


def suggestions(searched, count=30):
    """Values that a study without history asks for."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [searched.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method.strength=1e-6:1e-4:log", Numbers("method.strength", 1e-6, 1e-4, is_logarithmic=True)),
        ("training.learning_rate=1e-3:1e-2", Numbers("training.learning_rate", 1e-3, 1e-2)),
        ("training.temperature=1:2", Numbers("training.temperature", 1.0, 2.0)),
        ("method.radius=7:31", Numbers("method.radius", 7, 31, is_whole=True)),
        ("method.radius=7|15|31", Choices("method.radius", ("7", "15", "31"))),
        (" training.optimizer = adam | sgd ", Choices("training.optimizer", ("adam", "sgd"))),
        ("method.counts.zeta=1:10", Numbers("method.counts.zeta", 1.0, 10.0)),
        ("method.schedule=[]|[[0, 0.0], [0.5, 1.0]]", Choices("method.schedule", ("[]", "[[0, 0.0], [0.5, 1.0]]"))),
    ],
)
def test_a_range_as_it_is_written(text, expected):
    found = parse_range(text, RECIPE)
    assert found == expected
    assert parse_range(str(found), RECIPE) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.strenght=1:2", "found 'method.strenght'; did you mean 'method.strength'?"),
        ("nonsense", "expected KEY=LOW:HIGH"),
        ("method.strength", "expected LOW:HIGH, LOW:HIGH:log or 'A|B|C', found ''"),
        ("method.strength=1e-5", "expected LOW:HIGH, LOW:HIGH:log or 'A|B|C', found '1e-5'"),
        ("method.strength=1:2:linear", "found '1:2:linear'"),
        ("method.strength=1:2:3", "found '1:2:3'"),
        ("method.strength=2:1", "expected a lower and a higher number, found '2:1'"),
        ("method.strength=1:1", "expected a lower and a higher number"),
        ("method.strength=nan:1", "expected a lower and a higher number"),
        ("method.strength=0:inf", "expected a lower and a higher number"),
        ("method.strength=0:1:log", "expected numbers above 0 on a logarithmic scale"),
        ("method.radius=1.5:2.5", "expected whole numbers LOW:HIGH, LOW:HIGH:log or 'A|B|C'"),
        ("training.flip=0:1", "expected 'A|B|C', since it is False in the recipe"),
        ("training.optimizer=adam", "expected 'A|B|C', since it is 'adam' in the recipe"),
        ("method.radius=7|7", "expected different choices"),
    ],
)
def test_what_is_no_range(text, message):
    with pytest.raises(InputError) as raised:
        parse_range(text, RECIPE)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs=0:200", "epochs: expected 1 to 1000000000, found 0"),
        ("training.optimizer=adam|adamm", "expected one of adam, sgd, found 'adamm'"),
        ("method.radius=7|many", "expected int, found 'many'"),
    ],
)
def test_a_value_that_the_recipe_cannot_have(text, message):
    with pytest.raises(RecipeError) as raised:
        parse_range(text, RECIPE)
    assert message in str(raised.value)


def test_whole_numbers_stay_whole_and_both_ends_are_tried():
    values = suggestions(Numbers("method.radius", 3, 5, is_whole=True))
    assert set(values) == {3, 4, 5}
    assert all(type(value) is int for value in values)


def test_numbers_lie_within():
    values = suggestions(Numbers("method.strength", 1e-6, 1e-4, is_logarithmic=True))
    assert all(1e-6 <= value <= 1e-4 for value in values)
    assert 5 < sum(value < 1e-5 for value in values) < 25  # half of them, on a logarithmic scale


def test_choices_have_the_types_of_toml():
    assert set(suggestions(Choices("method.radius", ("7", "15")))) == {7, 15}
    assert set(suggestions(Choices("training.flip", ("true", "false")))) == {True, False}
    assert set(suggestions(Choices("training.optimizer", ("adam", '"sgd"')))) == {"adam", "sgd"}
    assert [[0, 1.0]] in suggestions(Choices("method.schedule", ("[]", "[[0, 1.0]]")))


def test_the_recipe_s_own_value():
    assert Numbers("k", 1, 3).parameter(3) == 3
    assert Numbers("k", 1, 3).parameter(4) is None
    assert Choices("k", ("7", "sgd")).parameter(7) == "7"
    assert Choices("k", ("7", "sgd")).parameter("sgd") == "sgd"
    assert Choices("k", ("7", "sgd")).parameter(8) is None


def test_default_ranges_of_metaq():
    strength, step = default_ranges(load_recipe("lenet5-digits", ["method.strength=1e-4", "method.step=0.25"]))
    assert (strength.key, strength.is_logarithmic) == ("method.strength", True)
    assert (strength.low, strength.high) == (pytest.approx(1e-5), pytest.approx(1e-3))
    assert (step.key, step.low, step.high) == ("method.step", 0.125, 0.5)


def test_a_method_that_steers_itself_to_a_size_is_asked_for_sizes():
    size, step = default_ranges(load_recipe("lenet5-digits", ["method.target_bytes=1001"]))
    assert (size.key, size.low, size.high, size.is_whole) == ("method.target_bytes", 500, 2002, True)
    assert step.key == "method.step"


def test_every_recipe_s_default_ranges_are_possible_or_asked_for():
    for name in known_recipes():
        recipe = load_recipe(name)
        try:
            ranges = default_ranges(recipe)
        except InputError as error:
            assert "expected a --range" in str(error)  # noqa: PT017
            assert not {"strength", "step"} & set(as_tree(recipe)["method"])
        else:
            assert ranges == tuple(parse_range(str(searched), recipe) for searched in ranges)


def test_values_are_placed_in_a_copy():
    tree = {"method": {"counts": {"zeta": 1.0}, "step": 2.0}}
    assert placed(tree, {"method.counts.zeta": 3.0}) == {"method": {"counts": {"zeta": 3.0}, "step": 2.0}}
    assert tree == {"method": {"counts": {"zeta": 1.0}, "step": 2.0}}
