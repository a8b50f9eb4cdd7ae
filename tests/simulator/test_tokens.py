import orjson
from hypothesis import given
from hypothesis import strategies as st

from oxyy_proxy.simulator import tokens

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1)


@given(MESSAGES)
def test_a_prompt_never_counts_more_than_a_token_per_two_bytes_of_its_json(messages):
    body = {"model": "gpt-5", "messages": messages}
    assert tokens.of_prompt(list(messages)) <= len(orjson.dumps(body)) / 2


def test_an_inline_image_counts_500_tokens_whatever_its_size():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    with_image = [{"role": "user", "content": [{"type": "text", "text": "abcdefgh"}, part]}]
    without = [{"role": "user", "content": [{"type": "text", "text": "abcdefgh"}]}]
    assert tokens.of_prompt(with_image) - tokens.of_prompt(without) == 500


def test_tools_are_part_of_what_the_model_reads():
    messages = [{"role": "user", "content": "x"}]
    assert tokens.of_prompt(list(messages), [{"name": "a" * 40}]) == tokens.of_prompt(list(messages)) + 10


def test_a_quarter_of_a_long_prompt_was_cached():
    assert (tokens.cached(63), tokens.cached(64), tokens.cached(101)) == (0, 16, 25)


def test_the_deepest_body_is_counted():
    node: object = "abcd"
    for _ in range(5000):
        node = [node]
    assert tokens.of_prompt([node]) == 3 + 1
