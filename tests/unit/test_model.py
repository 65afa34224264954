"""The rules of a callback, one table each, and what holds for any input."""

import json
import subprocess
import sys
import unicodedata
from bisect import bisect_left
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from hypothesis import assume, example, given
from hypothesis import strategies as st

from callbacks import model
from callbacks.errors import InvalidCallback
from local.stack import ROOT
from tests.unit.kit import Json

VALID: Json = {
    "orderId": "482500007436",
    "paymentId": "pay_bankapp_123",
    "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a",
    "success": True,
}
ABSENT = object()


def body_with(**fields: Any) -> str:
    return json.dumps({name: value for name, value in {**VALID, **fields}.items() if value is not ABSENT})


def body_with_text(field: str, text: str) -> str:
    """Return a valid body with one more member, its value as text: Python's floats do not keep every JSON number."""
    return f'{json.dumps(VALID)[:-1]}, "{field}": {text}}}'


def refusal(body: object) -> str:
    with pytest.raises(InvalidCallback) as error:
        model.parse(body)
    return str(error.value)


def accepted(amount: str) -> Decimal | None:
    """Return the amount of a valid body, or None if it is refused."""
    try:
        return model.parse(body_with_text("amount", amount)).amount
    except InvalidCallback:
        return None


def event_body(name: str) -> str:
    """Return the body of a sample delivery in events/."""
    body: str = json.loads((ROOT / "events" / f"{name}.json").read_text())["body"]
    return body


# The body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "body: must be the request's body as a string, not null"),
        ({"orderId": "1"}, "body: must be the request's body as a string, not an object"),
        ([], "body: must be the request's body as a string, not an array"),
        (True, "body: must be the request's body as a string, not a boolean"),
        (7, "body: must be the request's body as a string, not a number"),
        (7.5, "body: must be the request's body as a string, not a number"),
        ("", "body: is empty"),
        (" \r\n\t", "body: is empty"),
        ("[]", "body: must be a JSON object, not an array"),
        ('"text"', "body: must be a JSON object, not a string"),
        ("7", "body: must be a JSON object, not a number"),
        ("NaN", "body: must be a JSON object, not a number"),
        ("null", "body: must be a JSON object, not null"),
        ("true", "body: must be a JSON object, not a boolean"),
        ("{", "body: is not JSON (Expecting property name enclosed in double quotes, line 1 column 2)"),
        ('{"a": 1}}', "body: is not JSON (Extra data, line 1 column 9)"),
        ('{\n"a": 01}', "body: is not JSON (Expecting ',' delimiter, line 2 column 7)"),
        ('{"a": "\t"}', "body: is not JSON (Invalid control character at, line 1 column 8)"),
        ('{"a": 0x923}', "body: is not JSON (Expecting ',' delimiter, line 1 column 8)"),
        ('{"a": 1,}', "body: is not JSON (Expecting property name enclosed in double quotes, line 1 column 9)"),
        ("/* */{}", "body: is not JSON (Expecting value, line 1 column 1)"),
        ("\ufeff{}", "body: starts with a byte order mark"),
        ("[" * 8_192, "body: is nested too deeply"),
        ("[" * 8_193, "body: is larger than 8192 bytes"),
        ('{"a": ' + "[" * 4_000 + "]" * 4_000 + "}", "body: is nested too deeply"),
        ("1" * 8_193, "body: is larger than 8192 bytes"),
        ('{"a": 1e9999999999999999999}', "body: contains a number that is out of range"),
        ('{"a": "\\ud83c"}', "body: contains an unpaired surrogate"),
        ('{"a": "\ud83c"}', "body: contains an unpaired surrogate"),
        ('{"\\udf89": 1}', "body: contains an unpaired surrogate"),
        ('{"a": [{"b": "\\udf89"}]}', "body: contains an unpaired surrogate"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_not_a_json_object_is_refused(body: object, message: str) -> None:
    assert refusal(body) == message


LIKE_OURS = [
    ("OrderId", "orderId"),
    ("ORDERID", "orderId"),
    ("orderid", "orderId"),
    ("PaymentId", "paymentId"),
    ("userID", "userId"),
    ("Amount", "amount"),
    ("MESSAGE", "message"),
    # Letters whose other case is one of ours: a long s and a sharp s.
    ("u\u017ferId", "userId"),
    ("succe\u00df", "success"),
]


@pytest.mark.parametrize(("name", "field"), LIKE_OURS, ids=ascii)
def test_a_name_that_differs_from_ours_only_in_case_is_refused(name: str, field: str) -> None:
    both_ways = body_with(amount=1, message="", **{name: "1"})
    assert refusal(both_ways) == f"{field}: is written in another case"


def test_a_field_written_only_in_another_case_is_refused_for_its_name_first() -> None:
    assert refusal(body_with(userId=ABSENT, orderId=ABSENT, UserId="1", OrderId="2", ORDERID="3", Amount=4)) == (
        "userId: is written in another case; orderId: is written in another case; amount: is written in another case; "
        "orderId: is missing; userId: is missing"
    )


# Cyrillic, full-width, the Turkish letters and a blank: no reader that only ignores case takes these for ours.
UNLIKE_OURS = ["\u043erderId", "\uff4frderId", "order\u0131d", "order\u0130d", "orderId ", "order_id"]


@pytest.mark.parametrize("name", UNLIKE_OURS, ids=ascii)
def test_a_name_that_only_looks_like_ours_is_an_unknown_field(name: str) -> None:
    assert refusal(body_with(orderId=ABSENT, **{name: "1"})) == "orderId: is missing"
    assert json.loads(model.parse(body_with(**{name: "1"})).extra) == {name: "1"}


def test_a_name_inside_an_unknown_field_may_be_ours_in_any_case() -> None:
    inner = {"OrderId": "1", "list": [{"AMOUNT": 2}]}
    assert json.loads(model.parse(body_with(bank=inner)).extra) == {"bank": inner}


@pytest.mark.parametrize("character", ["a", "ก", "🎉"])
def test_the_limit_of_a_body_counts_bytes(character: str) -> None:
    start, end = body_with(note="")[:-2], '"}'
    room = 8_192 - len(start + end)
    fits, rest = divmod(room, len(character.encode()))
    at_limit = start + character * fits + "x" * rest + end
    assert len(at_limit.encode()) == 8_192
    assert model.parse(at_limit).order_id == VALID["orderId"]
    assert refusal(at_limit + " ") == "body: is larger than 8192 bytes"


@pytest.mark.parametrize("length", [4_097, 300_000, 10_485_760.0])
def test_a_body_that_was_cut_is_refused_for_its_length(length: float) -> None:
    with pytest.raises(InvalidCallback) as error:
        model.parse(body_with(), length)
    assert str(error.value) == f"body: has {length:.0f} characters, the limit is 8192 bytes of JSON"


@pytest.mark.parametrize("no_length", [None, True, "8193", [8193]], ids=str)
def test_a_length_that_is_no_number_says_nothing(no_length: object) -> None:
    assert model.parse(body_with(), no_length).order_id == VALID["orderId"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ('"success": false', "success: appears more than once"),
        ('"amount": 1, "amount": 1', "amount: appears more than once"),
        ('"note": {"a": 1, "a": 2}', "a field: appears more than once"),
        ('"note": [[{"a": {"b": 1, "\\u0062": 2}}]]', "a field: appears more than once"),
        ('"note": {"orderId": 1, "\\u006frderId": 2}', "orderId: appears more than once"),
        ('"note": {"\\ud800": 1, "\\ud800": 2}', "a field: appears more than once"),
    ],
    ids=lambda value: value[:40],
)
def test_a_field_that_appears_twice_is_refused_at_any_depth(members: str, message: str) -> None:
    assert refusal(f"{json.dumps(VALID)[:-1]}, {members}}}") == message


@pytest.mark.parametrize(
    ("field", "around", "named"),
    [
        ("amount", "{}", "amount"),
        ("message", "{}", "message"),
        ("note", "{}", "a field"),
        ("note", "[1, [[], [{}]]]", "a field"),
        ("note", '{{"a": {}}}', "a field"),
        ("note", '[{{"a": [{{"b": [0, {}]}}]}}]', "a field"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_at_any_depth(field: str, around: str, named: str) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        assert refusal(body_with_text(field, around.format(number))) == f"{named}: must be a finite number"


# The fields


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (ABSENT, "is missing"),
        (None, "must be a string, not null"),
        (482500007444, "must be a string, not a number"),
        (1.5, "must be a string, not a number"),
        (False, "must be a string, not a boolean"),
        ([], "must be a string, not an array"),
        ({}, "must be a string, not an object"),
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("\u3000", "must not be empty"),
        (" a", "must not begin or end with a blank"),
        ("a ", "must not begin or end with a blank"),
        ("a\n", "must not begin or end with a blank"),
        ("\u00a0a", "must not begin or end with a blank"),
        ("x" * 128 + " ", "must not begin or end with a blank"),
        ("x" * 129, "is longer than 128 characters"),
        ("a\nb", "contains an unprintable character"),
        ("a\x00", "contains an unprintable character"),
        ("a\u200bb", "contains an unprintable character"),
        ("\u202eabc", "contains an unprintable character"),
        ("A\ufffd", "contains U+FFFD, the mark of a broken character"),
        ("\ufffd", "contains U+FFFD, the mark of a broken character"),
        # An e and its accent, a tone mark before its vowel, the Kelvin sign, and a Chinese character's other code.
        ("e\u0301", "must be in Unicode's normal form NFC"),
        ("\u0e01\u0e48\u0e38", "must be in Unicode's normal form NFC"),
        ("3\u212a", "must be in Unicode's normal form NFC"),
        ("\uf900", "must be in Unicode's normal form NFC"),
    ],
)
def test_an_id_is_a_printable_string_of_128_characters_at_most(value: Any, problem: str) -> None:
    for field in ("orderId", "paymentId", "userId"):
        assert refusal(body_with(**{field: value})) == f"{field}: {problem}"


def test_bytes_that_are_not_utf_8_are_refused_only_in_an_id() -> None:
    body = body_with(orderId="order", message="message").encode()
    broken_id = body.replace(b'"order"', b'"\xfforder"').decode(errors="replace")
    broken_message = body.replace(b'"message"}', b'"\xffmessage"}').decode(errors="replace")
    assert refusal(broken_id) == "orderId: contains U+FFFD, the mark of a broken character"
    assert model.parse(broken_message).message == "\ufffdmessage"


@pytest.mark.parametrize(
    "value", ["x", "x" * 128, "ใบสั่งซื้อ 7", "O'Brien\\\"/", "🎉" * 128, "a  b", "\u00e9", "\u0e01\u0e38\u0e48", "\uff21"]
)
def test_an_id_is_kept_unchanged(value: str) -> None:
    callback = model.parse(body_with(orderId=value, paymentId=value, userId=value))
    assert (callback.order_id, callback.payment_id, callback.user_id) == (value, value, value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (ABSENT, "is missing"),
        (None, "must be true or false, not null"),
        ("true", "must be true or false, not a string"),
        (1, "must be true or false, not a number"),
        (0, "must be true or false, not a number"),
        ([True], "must be true or false, not an array"),
        ({}, "must be true or false, not an object"),
    ],
)
def test_success_is_true_or_false(value: Any, problem: str) -> None:
    assert refusal(body_with(success=value)) == f"success: {problem}"


@pytest.mark.parametrize("success", [True, False])
def test_success_is_kept(success: bool) -> None:
    assert model.parse(body_with(success=success)).success is success


DIGITS_PROBLEM = "must be 0, or at least 1E-30 and below 1E+38, with at most 38 significant digits"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"2339.0"', "must be a number, not a string"),
        ("true", "must be a number, not a boolean"),
        ("[1]", "must be a number, not an array"),
        ("{}", "must be a number, not an object"),
        ("-1", "must not be negative"),
        ("-0.01", "must not be negative"),
        ("-1e-999999999", "must not be negative"),
        ("9" * 39, DIGITS_PROBLEM),
        ("0." + "1" * 39, DIGITS_PROBLEM),
        ("1." + "0" * 38, DIGITS_PROBLEM),
        ("1e38", DIGITS_PROBLEM),
        ("1e100", DIGITS_PROBLEM),
        ("9.9e-31", DIGITS_PROBLEM),
        ("1e-130", DIGITS_PROBLEM),
        ("1e999999999", DIGITS_PROBLEM),
        ("1e-999999999", DIGITS_PROBLEM),
        ("7" * 8_000, DIGITS_PROBLEM),
    ],
    ids=lambda value: value[:40],
)
def test_an_amount_is_a_number_that_every_reader_reads_exactly(text: str, problem: str) -> None:
    assert refusal(body_with_text("amount", text)) == f"amount: {problem}"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("0", "0"),
        ("1.50", "1.50"),
        ("2339.0", "2339.0"),
        ("90071992547409.93", "90071992547409.93"),
        ("1E+2", "1E+2"),
        ("1e2", "1E+2"),
        ("0.1", "0.1"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("0." + "0" * 29 + "1" * 38, "1." + "1" * 37 + "E-30"),
        ("9.9e37", "9.9E+37"),
        ("1e-30", "1E-30"),
    ],
    ids=lambda value: value[:40],
)
def test_an_amount_keeps_every_digit(text: str, kept: str) -> None:
    amount = model.parse(body_with_text("amount", text)).amount
    assert isinstance(amount, Decimal)
    assert str(amount) == kept


@pytest.mark.parametrize(
    "text",
    ["0.00", "-0", "-0.0", "0e400", "0E-400", "-0e125", "0." + "0" * 500, "0e999999999"],
    ids=lambda text: text[:20],
)
def test_every_spelling_of_zero_is_kept_as_0(text: str) -> None:
    assert str(model.parse(body_with_text("amount", text)).amount) == "0"


@pytest.mark.parametrize("amount", [ABSENT, None])
def test_an_amount_may_be_missing(amount: Any) -> None:
    assert model.parse(body_with(amount=amount)).amount is None


@pytest.mark.parametrize(
    ("canonical", "spellings"),
    [
        ("0", ["0", "0.00", "0E+2", "0E-130", "-0", "-0.0"]),
        ("1.5", ["1.5", "1.50", "1.500", "15e-1", "15E-1", "0.15E+1"]),
        ("1E+2", ["100", "100.00", "1E+2", "1e2", "10E+1"]),
        ("2339", ["2339", "2339.0", "23390E-1"]),
        ("1E-30", ["1E-30", "10E-31"]),
        ("9.9E+37", ["9.9E+37", "99E+36"]),
        ("1E+37", ["1" + "0" * 37]),
        ("12345678901234567890123456789012345678", ["12345678901234567890123456789012345678"]),
    ],
)
def test_all_spellings_of_an_amount_have_one_canonical_text(canonical: str, spellings: list[str]) -> None:
    assert {model.canonical_amount(spelling) for spelling in spellings} == {canonical}


@pytest.mark.parametrize(
    "amounts",
    [
        ("1.5", "1.51"),
        ("1.5", "15"),
        ("0", "1E-30"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345679"),
    ],
)
def test_different_amounts_have_different_canonical_texts(amounts: tuple[str, str]) -> None:
    assert len({model.canonical_amount(amount) for amount in amounts}) == 2


def test_no_amount_is_not_zero() -> None:
    assert model.canonical_amount(None) is None
    assert model.canonical_amount("0") is not None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (7, "must be a string, not a number"),
        (True, "must be a string, not a boolean"),
        (["a"], "must be a string, not an array"),
        ({}, "must be a string, not an object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_message_is_a_string(value: Any, problem: str) -> None:
    assert refusal(body_with(message=value)) == f"message: {problem}"


@pytest.mark.parametrize(
    ("value", "kept"),
    [(ABSENT, None), (None, None), ("", ""), ("ก" * 1024, "ก" * 1024), ("a\n\x00b", "a\n\x00b")],
    ids=lambda value: str(value)[:20],
)
def test_a_message_is_optional_and_kept_unchanged(value: Any, kept: str | None) -> None:
    assert model.parse(body_with(message=value)).message == kept


@pytest.mark.parametrize("character", ["m", "ก", "🎉", "\ufffd"])
def test_a_message_that_is_too_long_is_cut_and_refuses_no_payment(character: str) -> None:
    def parsed(message: str) -> model.Callback:
        return model.parse(body_with_text("message", f'"{message}", "amount": 1, "note": "n"'))

    whole = parsed(character * 1024)
    assert whole.message == character * 1024
    assert parsed(character * 1024 + "x") == parsed(character * 1900) == whole


def test_all_wrong_fields_are_named_at_once() -> None:
    assert refusal(event_body("wrong-types")) == (
        "orderId: must be a string, not a number; paymentId: must not be empty; userId: must be a string, not null; "
        "success: must be true or false, not a string; amount: must be a number, not a string; "
        "message: must be a string, not a number"
    )
    assert refusal(event_body("missing-fields")) == "orderId: is missing; userId: is missing; success: is missing"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("empty", "body: is empty"),
        ("not-json", "body: is not JSON (Expecting value, line 1 column 1)"),
        ("malformed", "body: is not JSON (Expecting value, line 1 column 72)"),
        ("duplicate-keys", "success: appears more than once"),
        ("not-a-number", "amount: must be a finite number"),
    ],
)
def test_the_refusal_of_a_sample_names_the_rule_it_breaks(event: str, message: str) -> None:
    assert refusal(event_body(event)) == message


@pytest.mark.parametrize(
    "event", ["paid", "paid-again", "declined", "exact-amount", "only-required-fields", "unknown-fields"]
)
def test_a_valid_sample_is_accepted(event: str) -> None:
    body = event_body(event)
    assert model.parse(body).success is json.loads(body)["success"]


def test_a_refusal_does_not_repeat_the_value_of_a_field() -> None:
    secret = "b5f392f7\n" * 20
    assert "b5f392f7" not in refusal(body_with(orderId=secret, paymentId=[secret], userId=secret, message=[secret]))
    assert "b5f392f7" not in refusal(f'{{"userId": "{VALID["userId"]}", tr')


def test_unknown_fields_are_kept_without_losing_a_digit() -> None:
    body = body_with_text(
        "fee",
        '0.10, "big": 123456789012345678901234567890123456789012, "rate": 1e2, "bank": {"code": "004", "n": [1, -2]}, '
        '"message": "known", "name": "ชื่อ 🎉", "none": null, "yes": true',
    )
    assert json.loads(model.parse(body).extra) == {
        "fee": "0.10",
        "big": "123456789012345678901234567890123456789012",
        "rate": "1E+2",
        "bank": {"code": "004", "n": [1, -2]},
        "name": "ชื่อ 🎉",
        "none": None,
        "yes": True,
    }


def test_without_unknown_fields_extra_is_an_empty_object() -> None:
    assert model.parse(event_body("paid")).extra == "{}"


def test_the_rules_know_neither_aws_nor_the_environment() -> None:
    code = "import sys; import callbacks.model; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT / "functions", capture_output=True, check=True, text=True
    ).stdout.split()
    assert "callbacks.model" in loaded
    assert not {"boto3", "botocore", "pynamodb", "callbacks.config", "callbacks.tables"} & set(loaded)


# What holds for any input

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="\ufffd"), min_size=1, max_size=128
).filter(lambda text: unicodedata.is_normalized("NFC", text))
amounts = st.builds(
    lambda digits, first: Decimal((0, digits, first - len(digits) + 1)),
    st.lists(st.integers(0, 9), min_size=1, max_size=38).filter(lambda digits: digits[0] != 0).map(tuple),
    st.integers(-30, 37),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
extras = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**37), 10**37) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


known = st.fixed_dictionaries(
    {"orderId": ids, "paymentId": ids, "userId": ids, "success": st.booleans()}, optional={"message": st.none() | texts}
)
unknown = st.dictionaries(
    texts.filter(lambda name: name.casefold() not in model.FIELDS_BY_FOLDED_NAME), extras, max_size=4
)


@given(known, unknown, st.none() | amounts, st.booleans())
def test_any_valid_callback_is_read_exactly(
    fields: Json, extra: Json, amount: Decimal | None, ascii_only: bool
) -> None:
    document = json.dumps({**extra, **fields}, ensure_ascii=ascii_only)
    callback = model.parse(f'{document[:-1]}, "amount": {"null" if amount is None else amount}}}')
    assert callback.order_id == fields["orderId"]
    assert callback.payment_id == fields["paymentId"]
    assert callback.user_id == fields["userId"]
    assert callback.success is fields["success"]
    assert callback.message == fields.get("message")
    assert json.loads(callback.extra) == extra
    # As text, because 1.5 equals 1.50.
    assert str(callback.amount) == str(amount)


# Of any size and length, and often at the limits.
numbers = st.builds(
    "{}e{}".format,
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})([.][0-9]{1,40})?", fullmatch=True, alphabet="-.0123456789"),
    st.integers(-170, 130) | st.integers(-70, 2),
)


@given(numbers)
@example("9." + "9" * 37 + "e37")
@example("9." + "9" * 37 + "e-30")
@example("1e37")
@example("1e38")
@example("1e100")
@example("1e-30")
@example("9." + "9" * 37 + "e-130")
@example("0e400")
@example("-0e-400")
@example("2339.00")
def test_any_accepted_amount_survives_being_stored_and_read(number: str) -> None:
    amount = accepted(number)
    assume(amount is not None)
    assert amount == Decimal(number)
    kept_exactly = amount.normalize(Context(prec=38, traps=[Inexact]))
    stored: list[Any] = [TypeSerializer().serialize(amount), {"N": f"{amount:f}"}, {"N": f"{kept_exactly:f}"}]
    for read in map(TypeDeserializer().deserialize, stored):
        assert read == amount
        assert model.canonical_amount(str(read)) == model.canonical_amount(number)


@given(amounts, st.integers(0, 37))
def test_the_canonical_text_of_any_amount_is_exact_and_ignores_zeros(amount: Decimal, zeros: int) -> None:
    canonical = model.canonical_amount(str(amount))
    assert canonical is not None
    assert Decimal(canonical) == amount
    assert model.canonical_amount(canonical) == canonical
    _, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)
    longer = Decimal((0, (*digits, *[0] * min(zeros, model.MAX_AMOUNT_DIGITS - len(digits))), exponent))
    same = longer.scaleb(len(digits) - len(longer.as_tuple().digits))
    assert model.canonical_amount(str(same)) == canonical


@given(amounts, amounts)
def test_any_two_amounts_share_a_canonical_text_only_if_they_are_equal(first: Decimal, second: Decimal) -> None:
    assert (model.canonical_amount(str(first)) == model.canonical_amount(str(second))) == (first == second)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
@example("[" * 8_193)
@example('{"a":' * 6_000 + "1" + "}" * 6_000)
@example('{"a":' + "[" * 3_000 + "]" * 3_000 + "}")
@example('{"amount": 1e999999999}')
@example('{"amount": ' + "1" * 8_193 + "}")
@example('{"a": -0e-999999999999999999999}')
def test_any_other_text_is_refused(text: str) -> None:
    assert refusal(text)


@given(json_values, st.sampled_from([*model.RULES, "note"]), st.booleans())
def test_any_json_is_refused_or_can_be_stored(value: Any, field: str, ascii_only: bool) -> None:
    for document in (value, {**VALID, field: value}, {**VALID, "note": [{field: value}]}):
        try:
            callback = model.parse(json.dumps(document, ensure_ascii=ascii_only))
        except InvalidCallback:
            continue
        assert "".join(map(str, (callback.order_id, callback.message, callback.amount, callback.extra))).encode()


@given(json_values)
def test_any_body_that_is_not_text_is_refused(value: Any) -> None:
    assume(not isinstance(value, str))
    assert refusal(value).startswith("body: must be the request's body as a string, not ")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('[{"a":', "}]")], ids=["lists", "both"])
def test_a_body_is_refused_at_any_depth(opening: str, closing: str) -> None:
    def refusal_at(depth: int) -> str:
        return refusal('{"a":' + opening * depth + "1" + closing * depth + "}")

    missing, too_deep = refusal_at(1), "body: is nested too deeply"
    depths = range(1_000)
    # Another error is likeliest around the depth at which the interpreter's limit begins to strike.
    limit = bisect_left(depths, True, key=lambda depth: refusal_at(depth) == too_deep)
    tried = {*depths[::50], *depths[limit - 100 : limit + 100]}
    assert {refusal_at(depth) for depth in tried} == {missing, too_deep}


# Finding ids


@given(json_values | st.text(max_size=200), st.sampled_from(["orderId", "paymentId", "note"]))
@example("[" * 8_193, "orderId")
@example('"orderId":"' * 20_000, "orderId")
@example('"orderId":"' + "\\" * 100_001, "orderId")
@example('"orderId"' + " " * 100_000, "orderId")
def test_looking_for_ids_never_fails(value: Any, field: str) -> None:
    for body in (value, {field: value}, [{field: value}], json.dumps({field: value})):
        for found in model.find_ids(body):
            assert found is None or (0 < len(found) <= 128 and found.isprintable())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (event_body("paid"), ("482500007436", "pay_bankapp_123")),
        (event_body("malformed"), ("482500007442", "pay_bankapp_129")),
        (event_body("duplicate-keys"), ("482500007445", "pay_bankapp_132")),
        (event_body("missing-fields"), (None, "pay_bankapp_131")),
        (event_body("wrong-types"), ("482500007444", None)),
        (event_body("not-json"), (None, None)),
        (event_body("empty"), (None, None)),
        (None, (None, None)),
        (7, (None, None)),
        ({"orderId": "1", "paymentId": 2}, ("1", "2")),
        ('{"orderId": "1", "paymentId": "pay_ba', ("1", None)),
        ('{"orderId"\n:\t-12, ', ("-12", None)),
        # A truncated number is another number.
        ('{"orderId": 4825', (None, None)),
        ('{"orderId": "2026\\/7", ', ("2026/7", None)),
        ('{"orderId": "a\u200bb", "paymentId": "%s"}' % ("x" * 129), (None, None)),
        # Refused as an id, but still the best search term.
        ('{"orderId": "A\ufffd", "paymentId": "1"}', ("A\ufffd", "1")),
        ('{"orderId": "%s"}' % ("x" * 128), ("x" * 128, None)),
        ('{"orderId": null, "paymentId": true}', (None, None)),
        ('{"message": "\\"orderId\\": \\"forged\\"", "paymentId": "1"}', (None, "1")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ids_are_found_as_far_as_a_body_reveals_them(body: object, found: tuple[str | None, str | None]) -> None:
    assert model.find_ids(body) == found


@given(st.integers(0, 200), st.booleans())
def test_ids_are_found_in_a_body_that_is_truncated_after_them(length: int, padded: bool) -> None:
    start = '{"orderId": "482500007436", "paymentId": "pay_1"'
    body = start + (", " * length if padded else ', "success": true, "message": "ชำระ" ' * length)
    assert model.find_ids(body[: len(start) + length]) == ("482500007436", "pay_1")


@given(ids, ids, st.booleans())
@example("ใบสั่งซื้อ", "1", True)
@example("2026/7", "1", False)
@example('a"b', "a\\b", False)
def test_the_ids_found_are_those_that_the_rules_read(order_id: str, payment_id: str, ascii_only: bool) -> None:
    fields = {**VALID, "orderId": order_id, "paymentId": payment_id}
    # PHP's json_encode also escapes the slash.
    body = json.dumps(fields, ensure_ascii=ascii_only).replace("/", r"\/")
    callback = model.parse(body)
    assert (callback.order_id, callback.payment_id) == (order_id, payment_id)
    assert model.find_ids(body) == (callback.order_id, callback.payment_id)


def test_an_id_inside_an_unknown_field_is_not_the_callbacks_own() -> None:
    body = '{"bank": {"orderId": "other", "paymentId": "other"}, ' + json.dumps(VALID)[1:]
    assert model.find_ids(body) == (VALID["orderId"], VALID["paymentId"])


# Headers


@pytest.mark.parametrize(
    ("delivery", "proof"),
    [
        ({}, None),
        ({"headers": None}, None),
        ({"headers": "x-signature: 1"}, None),
        ({"headers": ["x-signature"]}, None),
        ({"headers": {}}, None),
        ({"headers": {"content-type": "application/json", "user-agent": "BankGateway/2.1"}}, None),
        ({"headers": {"content-type": "application/json", "x-signature": "9f86d081"}}, {"x-signature": "9f86d081"}),
        (
            {"headers": {"webhook-id": "msg_1", "user-agent": "Bank", "webhook-signature": "v1,a/b+c= v1,d"}},
            {"webhook-id": "msg_1", "webhook-signature": "v1,a/b+c= v1,d"},
        ),
        ({"headers": {"x-signature": 'it\'s \\ "ก" 🎉'}}, {"x-signature": 'it\'s \\ "ก" 🎉'}),
        ({"headers": {"x-signature": ""}}, {"x-signature": ""}),
    ],
    ids=str,
)
def test_only_headers_that_may_prove_the_origin_are_kept(delivery: Json, proof: dict[str, str] | None) -> None:
    headers = model.signature_headers(delivery)
    assert headers is None if proof is None else json.loads(headers or "") == proof


# Time


@pytest.mark.parametrize(
    ("received_at", "fallback", "expected"),
    [
        (1795341600000, "x", "2026-11-22T10:00:00.000Z"),
        (1795341600001, "x", "2026-11-22T10:00:00.001Z"),
        (1795341600999, "x", "2026-11-22T10:00:00.999Z"),
        (1795341600000.0, "x", "2026-11-22T10:00:00.000Z"),
        (0, "x", "1970-01-01T00:00:00.000Z"),
        (None, "2026-11-22T10:00:00Z", "2026-11-22T10:00:00.000Z"),
        (None, "2026-11-22T10:00:00.5Z", "2026-11-22T10:00:00.500Z"),
        (None, "2026-11-22T17:00:00.123456+07:00", "2026-11-22T10:00:00.123Z"),
        ("1795341600000", "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        (True, "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        # Not in the calendar.
        (9e15, "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        (10**400, "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        (float("inf"), "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
        (float("nan"), "2026-11-22T10:00:00.123Z", "2026-11-22T10:00:00.123Z"),
    ],
)
def test_a_time_is_utc_with_milliseconds(received_at: object, fallback: str, expected: str) -> None:
    assert model.received_at({"receivedAt": received_at}, fallback) == expected


# Until 2242: after that, a float of seconds cannot distinguish two milliseconds.
moments = st.integers(0, 2**33 * 1000 - 1)


@given(moments, moments)
@example(1795341600009, 1795341600010)
def test_the_text_of_a_time_sorts_chronologically(first: int, second: int) -> None:
    texts_of_both = (model.received_at({"receivedAt": first}, ""), model.received_at({"receivedAt": second}, ""))
    assert (first < second) == (texts_of_both[0] < texts_of_both[1])
    assert len(texts_of_both[0]) == len("2026-11-22T10:00:00.000Z")


@given(moments)
def test_a_time_is_the_same_to_the_millisecond_from_either_source(milliseconds: int) -> None:
    text = model.received_at({"receivedAt": milliseconds}, "")
    assert model.received_at(None, text) == text
    moment = datetime.fromisoformat(text)
    assert round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) == milliseconds
