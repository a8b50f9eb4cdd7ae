from oxyy_proxy.simulator import words


def test_the_same_seed_gives_the_same_sentence_of_exactly_so_many_words():
    pieces = words.sentence(b"seed", 64)
    assert pieces == words.sentence(b"seed", 64)
    assert len(pieces) == len("".join(pieces).split()) == 64


def test_a_sentence_of_no_words_is_empty():
    assert words.sentence(b"seed", 0) == []


def test_lengths_that_nobody_asked_for_lie_between_five_and_forty_words():
    lengths = {words.how_many(words.derive(b"seed", str(i))) for i in range(2000)}
    assert (min(lengths), max(lengths)) == (5, 40)


def test_chopped_text_joins_again():
    assert words.chopped('{"a": "bcdef"}') == ['{"a": ', '"bcdef', '"}']
