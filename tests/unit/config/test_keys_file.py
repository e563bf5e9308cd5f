"""What a keys file may say, and how each thing that is wrong in one is told: by line, entry and field."""

import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from gomodel.access.new_key import entry
from gomodel.config.keys_file import checked_name, digests_of, parse
from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError, Key, Secret

ONE = sha256(b"one").hexdigest()
TWO = sha256(b"two").hexdigest()
A = f'[keys.a]\nsha256 = "{ONE}"\n'


def only(text: str) -> Key:
    (key,) = parse(text.encode())
    return key


def problems(text: str | bytes, masters: frozenset[bytes] = frozenset()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), masters)
    return caught.value.problems


def test_an_entry_without_limits_has_none() -> None:
    assert only(A) == Key("a", (bytes.fromhex(ONE),))
    assert only(A).expires_at == float("inf")


def test_an_entry_may_say_everything() -> None:
    key = only(f"""
[keys."Team.x@example+1"]
sha256 = ["{ONE}", "{TWO.upper()}"]  # while one replaces the other
in_flight = 8
requests_per_minute = 600
tokens_per_minute = 200000
models = ["vllm/*", "Qwen/*"]
when_full = "refuse"
priority = -5
weight = 0.5
passthrough = true
admin = true
metrics = true
expires = "2027-01-31"
""")
    assert key == Key(
        "Team.x@example+1",
        (bytes.fromhex(ONE), bytes.fromhex(TWO)),
        8,
        600,
        200000,
        ("vllm/*", "Qwen/*"),
        "refuse",
        -5,
        0.5,
        passthrough=True,
        admin=True,
        metrics=True,
        expires_at=datetime(2027, 1, 31, tzinfo=UTC).timestamp(),
    )
    assert ONE not in repr(key)
    assert str(bytes.fromhex(ONE)) not in repr(key)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('"2027-01-31"', datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ('"2027-01-31T12:00:00Z"', datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ('"2027-01-31 12:00"', datetime(2027, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_date_is_its_beginning_in_utc_unless_it_says_otherwise(said: str, meant: datetime) -> None:
    assert only(f"{A}expires = {said}\n").expires_at == meant.timestamp()


def test_a_date_without_an_offset_is_utc_wherever_the_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    parse.cache_clear()
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC-9")
        time.tzset()
        expires_at = only(f"{A}expires = 2027-01-31T12:00:00\n").expires_at
    time.tzset()
    assert expires_at == datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("weight", [0.001, 1, 999.5, 1000])
def test_a_weight_may_be_as_small_and_as_large_as_is_said(weight: float) -> None:
    assert only(f"{A}weight = {weight}\n").weight == weight


def test_entries_keep_their_order_and_none_is_no_problem() -> None:
    assert [each.name for each in parse(f'{A}[keys.0]\nsha256 = "{TWO}"\n'.encode())] == ["a", "0"]
    assert parse(b"[keys]\n") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there is no entry: write one as [keys.alice]"),
        ("keys = 1\n", "there is no entry: write one as [keys.alice]"),
        (f'{A}[keis.b]\nsha256 = "{TWO}"\n', "'keis' is no table of a keys file: write one as [keys.alice]"),
        ("[keys]\na = 1\n", "keys.a is no table: write one as [keys.alice]"),
        ("# first\n[keys.a]\nin_flight = 1\n", "line 2: keys.a has no sha256; gomodel new-key NAME prints"),
        (f'[keys."a b"]\nsha256 = "{ONE}"\n', "line 1: keys.a b: a name is 1 to 64 of"),
        (f'[keys."a\\nb"]\nsha256 = "{ONE}"\n', "keys.a\\nb: a name is 1 to 64 of"),
        (f'[keys.{"a" * 65}]\nsha256 = "{ONE}"\n', f"line 1: keys.{'a' * 65}: a name is 1 to 64 of"),
        (f'[keys.master]\nsha256 = "{ONE}"\n', "line 1: keys.master: the holder of GOMODEL_MASTER_KEY is called so"),
        (
            f"{A}\n\n  in_fligth = 8\n",
            "line 5: keys.a: 'in_fligth' is no field of an entry; the nearest is in_flight",
        ),
        (f"\n{A}IN_FLIGHT = 8\n", "line 4: keys.a: 'IN_FLIGHT' is no field of an entry; the nearest is in_flight"),
        (f"{A}[keys.a.limits]\n[keys.b]\nlimits = 1\n", "line 1: keys.a: 'limits' is no field of an entry"),
        (f"{A}rate = 8\n", "line 3: keys.a: 'rate' is no field of an entry; the nearest is "),
        (f"{A}[keys.a.limits]\nx = 8\n", "line 1: keys.a: 'limits' is no field of an entry; the nearest is "),
        ('[keys.a]\nsha256 = "secret"\n', "line 2: keys.a.sha256 is not a SHA-256 in 64 hexadecimal digits"),
        ("[keys.a]\nsha256 = []\n", "line 2: keys.a.sha256 is not a SHA-256 in 64 hexadecimal digits"),
        (f'[keys.a]\nsha256 = ["{ONE}", 7]\n', "line 2: keys.a.sha256 is not a SHA-256 in 64 hexadecimal digits"),
        (
            f'{A}\n[ keys . "b" ]\n"sha256" = "{ONE}"\n',
            "line 5: keys.b has the same key as keys.a; each needs its own",
        ),
        (f"{A}in_flight = 0\n", "line 3: keys.a.in_flight is not a whole number from 1 to 2147483647"),
        (f"{A}in_flight = 1.0\n", "line 3: keys.a.in_flight is not a whole number"),
        (f"{A}in_flight = true\n", "line 3: keys.a.in_flight is not a whole number"),
        (f'{A}requests_per_minute = "1"\n', "line 3: keys.a.requests_per_minute is not a whole number"),
        (f"{A}tokens_per_minute = -1\n", "line 3: keys.a.tokens_per_minute is not a whole number"),
        (f"{A}priority = 99999999999\n", "line 3: keys.a.priority is not a whole number"),
        (f"{A}weight = 0\n", "line 3: keys.a.weight is not a number from 0.001 to 1000"),
        (f"{A}weight = 0.0009\n", "line 3: keys.a.weight is not a number from 0.001 to 1000"),
        (f"{A}weight = 1000.5\n", "line 3: keys.a.weight is not a number from 0.001 to 1000"),
        (f"{A}weight = inf\n", "line 3: keys.a.weight is not a number"),
        (f"{A}weight = nan\n", "line 3: keys.a.weight is not a number"),
        (f"{A}weight = true\n", "line 3: keys.a.weight is not a number"),
        (f"{A}models = []\n", "line 3: keys.a.models is no list of patterns"),
        (f'{A}models = "vllm/*"\n', "line 3: keys.a.models is no list of patterns"),
        (f'{A}models = ["", "x"]\n', "line 3: keys.a.models is no list of patterns"),
        (f"{A}passthrough = 1\n", "line 3: keys.a.passthrough is neither true nor false"),
        (f'{A}admin = "yes"\n', "line 3: keys.a.admin is neither true nor false"),
        (f"{A}when_full = true\n", "line 3: keys.a.when_full is not one of 'refuse', 'wait'"),
        (f'{A}expires = "soon"\n', "line 3: keys.a.expires is not a date such as 2027-01-31"),
        (f"{A}expires = 2027\n", "line 3: keys.a.expires is not a date"),
        (f"{A}expires = 12:00:00\n", "line 3: keys.a.expires is not a date"),
        (f"{A}a b\n", "no TOML: "),
        (f"{A}{A}", "no TOML: "),
        ("x = " + "[" * 5000, "no TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_entry(text: str, expected: str) -> None:
    said = problems(text)
    assert said[0].startswith(expected)
    assert not any(secret in problem for problem in said for secret in (ONE, TWO, "secret"))


def test_a_file_that_is_no_toml_says_where() -> None:
    assert "line 3" in problems(f"{A}a b\n")[0]
    assert problems(b"[keys.a]\nsha256 = '\xff'\n") == ("line 2: no UTF-8",)
    assert "sk-private" not in problems('[keys.a]\nsha256 = "x" "sk-private"\n')[0]


def test_all_problems_are_told_at_once_up_to_a_number() -> None:
    bad = [f'[keys.k{at}]\nsha256 = "{at}"\nadmin = 1\n' for at in range(3)]
    assert [problem.split(":")[0] for problem in problems("".join(bad))] == [f"line {at}" for at in (2, 3, 5, 6, 8, 9)]
    assert len(problems("".join(f"[keys.k{at}]\n" for at in range(20)))) == 20
    many = problems("".join(f"[keys.k{at}]\n" for at in range(30)))
    assert (len(many), many[-1]) == (21, "and 10 more")


def test_the_master_key_is_no_ones_entry() -> None:
    masters = digests_of([Secret("one"), Secret("other")])
    said = problems(A, masters)
    assert said == ("line 2: keys.a has the same key as GOMODEL_MASTER_KEY; each needs its own",)
    assert parse(f'[keys.b]\nsha256 = "{TWO}"\n'.encode(), masters)


@pytest.mark.parametrize("name", ["alice", "Team.x@example+1", "0"])
def test_the_entry_of_a_new_key_can_be_pasted(name: str) -> None:
    assert only(entry(name, "one") + "\n") == Key(checked_name(name), (bytes.fromhex(ONE),))


def test_the_file_is_part_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(A)
    config = from_environ({"GOMODEL_KEYS_FILE": str(path), "GOMODEL_MASTER_KEY": "m"})
    assert config.keys is not None
    assert (config.keys.path, config.keys.entries) == (str(path), (only(A),))
    assert config.host == "::"
    assert not any("GOMODEL" in warning for warning in config.warnings)


def test_without_a_master_key_the_file_alone_lets_in_and_who_is_operator_is_worth_a_word(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(A)
    config = from_environ({"GOMODEL_KEYS_FILE": str(path)})
    assert config.host == "::"
    (warning,) = [each for each in config.warnings if "GOMODEL" in each]
    assert warning.endswith("no entry of GOMODEL_KEYS_FILE has admin = true: /admin is closed to all")
    path.write_text(f"{A}admin = true\n")
    assert not any("GOMODEL" in each for each in from_environ({"GOMODEL_KEYS_FILE": str(path)}).warnings)


def test_its_problems_are_those_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f"{A}in_fligth = 8\nweight = 0\n")
    with pytest.raises(ConfigError) as caught:
        from_environ({"GOMODEL_KEYS_FILE": str(path), "PORT": "x"})
    _, first, second = sorted(caught.value.problems, key=lambda each: "KEYS" in each)
    assert first.startswith(f"GOMODEL_KEYS_FILE: {str(path)!r} line 3: keys.a: 'in_fligth' is no field")
    assert second.startswith(f"GOMODEL_KEYS_FILE: {str(path)!r} line 4: keys.a.weight")
    with pytest.raises(ConfigError) as caught:
        from_environ({"GOMODEL_KEYS_FILE": str(tmp_path / "none")})
    (problem,) = caught.value.problems
    assert problem.endswith("cannot be read: No such file or directory")
