from oxyy_proxy.simulator.subtitles import Segment, segments, srt, vtt

PARTS = [Segment(0, 2100, "Hello, this is"), Segment(2100, 3_725_420, "a test.")]


def test_segments_fill_the_duration_without_a_gap():
    words = [f" w{number}" for number in range(16)]
    parts = segments(words, 5420)
    assert [part.text.count("w") for part in parts] == [7, 7, 2]
    assert [part.start_ms for part in parts] == [0, *(part.end_ms for part in parts[:-1])]
    assert parts[-1].end_ms == 5420
    assert " ".join(part.text for part in parts) == "".join(words).strip()


def test_no_words_are_no_segments():
    assert segments([], 1000) == []


def test_json_has_seconds():
    assert PARTS[0].as_json() == {"start": 0.0, "end": 2.1, "text": "Hello, this is"}


def test_srt_is_numbered_with_commas():
    assert srt(PARTS) == (
        "1\n00:00:00,000 --> 00:00:02,100\nHello, this is\n\n2\n00:00:02,100 --> 01:02:05,420\na test.\n\n"
    )


def test_vtt_has_its_header_and_points():
    assert vtt(PARTS[:1]) == "WEBVTT\n\n00:00:00.000 --> 00:00:02.100\nHello, this is\n\n"
