"""A transcript in time: its segments, and how they are written in SRT and WebVTT."""

from __future__ import annotations

from dataclasses import dataclass

WORDS_PER_SEGMENT = 7


@dataclass(frozen=True, slots=True)
class Segment:
    """Some words, and when they are said, in ms from the start."""

    start_ms: int
    end_ms: int
    text: str

    def as_json(self) -> dict[str, object]:
        """As in verbose_json."""
        return {"start": self.start_ms / 1000, "end": self.end_ms / 1000, "text": self.text}


def segments(words: list[str], duration_ms: int) -> list[Segment]:
    """The words in segments that fill the duration, each as long as it has words."""
    found = []
    for first in range(0, len(words), WORDS_PER_SEGMENT):
        part = words[first : first + WORDS_PER_SEGMENT]
        start_ms, end_ms = (duration_ms * word // len(words) for word in (first, first + len(part)))
        found.append(Segment(start_ms, end_ms, "".join(part).strip()))
    return found


def srt(parts: list[Segment]) -> str:
    """SubRip: numbered, with commas before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(part.start_ms, ',')} --> {_clock(part.end_ms, ',')}\n{part.text}\n\n"
        for number, part in enumerate(parts, 1)
    )


def vtt(parts: list[Segment]) -> str:
    """WebVTT."""
    cues = (f"{_clock(part.start_ms, '.')} --> {_clock(part.end_ms, '.')}\n{part.text}\n\n" for part in parts)
    return "WEBVTT\n\n" + "".join(cues)


def _clock(ms: int, point: str) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms % 1000:03}"
