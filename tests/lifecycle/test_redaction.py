import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestration.lifecycle.redaction import MASK, Redactor

ENGINE = "postgresql://dcp:s3cret/pw@db.example.org:5432/pluto?options=--search_path%3Dmain,public"


@pytest.mark.parametrize(
    "name",
    [
        *("PGPASSWORD", "BUILD_ENGINE_PASSWORD", "DB_PASS", "SMTP_PWD", "AWS_SECRET_ACCESS_KEY"),
        *("SOCRATA_API_KEY", "apikey", "KEY", "GITHUB_TOKEN", "GOOGLE_CREDENTIALS", "BUILD_ENGINE"),
    ],
)
def test_the_value_of_a_variable_that_sounds_secret_is_masked(name: str) -> None:
    redact = Redactor({name: "hunter2!"})
    assert redact.text("login with hunter2! now") == f"login with {MASK} now"


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "MONKEY", "KEYBOARD", "PASSENGERS", "VERSION"])
def test_other_variables_are_shown(name: str) -> None:
    # A log without the working directory in it helps nobody.
    assert Redactor({name: "/srv/work"}).text("in /srv/work") == "in /srv/work"


def test_the_password_of_the_build_engine_is_masked_wherever_it_stands() -> None:
    redact = Redactor({"BUILD_ENGINE": ENGINE})
    for text in (ENGINE, f"connecting to {ENGINE}", "password s3cret/pw", "pw=s3cret%2Fpw"):
        assert "s3cret" not in redact.text(text)
    assert "db.example.org" in redact.text(ENGINE), "which server it was is no secret"


@pytest.mark.parametrize("url", ["postgresql://u:p%40ss@h/db", "postgresql://u:p@ss@h/db"])
def test_a_password_with_an_at_sign_is_masked_encoded_and_plain(url: str) -> None:
    redact = Redactor({"BUILD_ENGINE_SERVER": url})
    for text in (url, "password p@ss", "password p%40ss"):
        assert "ss" not in redact.text(text).replace("password", "")


def test_a_connection_string_that_no_variable_holds_is_masked_too() -> None:
    shown = Redactor({}).text("trying postgresql://me:other-pw@host/db and then https://nyc.gov/a")
    assert shown == f"trying postgresql://me:{MASK}@host/db and then https://nyc.gov/a"


@pytest.mark.parametrize("value", ["https://hooks.example.org/T0/B1?sig=abc", "ab://cd"])
def test_a_secret_that_looks_like_an_address_is_a_secret_all_the_same(value: str) -> None:
    assert value not in Redactor({"WEBHOOK_TOKEN": value}).text(f"posting to {value}")


def test_each_line_of_a_key_file_is_masked() -> None:
    redact = Redactor({"DEPLOY_KEY": "-----BEGIN KEY-----\nMIIEvQ\nabcdef\n"})
    assert redact.text("> MIIEvQ\n> abcdef") == f"> {MASK}\n> {MASK}"


def test_a_secret_within_a_longer_one_does_not_uncover_the_rest() -> None:
    redact = Redactor({"A_TOKEN": "abcd", "B_TOKEN": "abcdefgh"})
    assert redact.text("abcdefgh") == MASK


def test_an_empty_or_tiny_value_does_not_blot_out_the_log() -> None:
    assert Redactor({"A_TOKEN": "", "B_KEY": "1", "C_KEY": "no"}).text("1 not no") == "1 not no"


def test_data_is_masked_at_any_depth_and_keeps_its_types() -> None:
    redact = Redactor({"A_TOKEN": "hunter2"})
    data = {"a": [1, None, {"hunter2": "is hunter2"}], "b": 2.5}
    assert redact.data(data) == {"a": [1, None, {MASK: f"is {MASK}"}], "b": 2.5}


SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=4)


@given(secret=SECRETS, before=st.text(max_size=5), after=st.text(max_size=5))
def test_any_secret_is_masked_in_any_text(secret: str, before: str, after: str) -> None:
    assume(secret.strip() == secret and secret not in MASK)
    shown = Redactor({"A_PASSWORD": secret}).text(f"{before}{secret}{after}")
    assert secret not in shown.replace(MASK, "\0")
