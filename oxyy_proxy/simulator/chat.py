"""POST /v1/chat/completions: what the fake model says, whole or as a stream of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

import orjson

from . import tokens, words
from .answers import Answer, Usage, event, json_answer, sse_answer
from .asked import Asked, count
from .errors import ApiError
from .schema import example

CREATED = 1700000000
DEFAULT_MAX_TOKENS = 4096
MOST_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `n` answers. Each piece is one output token: a word, or a part of some JSON."""

    index: int
    pieces: list[str]
    finish_reason: str
    tool: str | None = None
    call_id: str = ""

    def message(self) -> dict[str, object]:
        """The whole message, as in an answer that is not streamed."""
        text = "".join(self.pieces)
        if self.tool is None:
            return {"role": "assistant", "content": text}
        function = {"name": self.tool, "arguments": text}
        call = {"id": self.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def deltas(self) -> Iterator[dict[str, object]]:
        """The same message in the steps of a stream."""
        if self.tool is None:
            yield {"role": "assistant", "content": ""}
            for piece in self.pieces:
                yield {"content": piece}
            return
        function = {"name": self.tool, "arguments": ""}
        call = {"index": 0, "id": self.call_id, "type": "function", "function": function}
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
        for piece in self.pieces:
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def answer(asked: Asked) -> Answer:
    """The answer to a chat request. Raises ApiError 400."""
    body = asked.body
    messages = _messages(body)
    choices = [_choice(asked, messages, index) for index in range(_how_many(body))]
    prompt_tokens = tokens.of_prompt(messages, body.get("tools"), body.get("response_format"))
    output_tokens = sum(len(choice.pieces) for choice in choices)
    usage = Usage(prompt_tokens, output_tokens, tokens.cached(prompt_tokens))
    head = {
        "id": f"chatcmpl-{asked.seed.hex()[:24]}",
        "object": "chat.completion",
        "created": CREATED,
        "model": asked.model,
    }
    if asked.stream:
        return _streamed(head, choices, usage, _wants_usage(body))
    whole = [{"index": c.index, "message": c.message(), "finish_reason": c.finish_reason} for c in choices]
    return json_answer({**head, "choices": whole}, usage, _report(usage))


def _streamed(head: dict[str, object], choices: list[Choice], usage: Usage, with_usage: bool) -> Answer:
    head = {**head, "object": "chat.completion.chunk"}
    tail = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, object], finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **tail})

    columns = [[chunk(c.index, delta) for delta in c.deltas()] for c in choices]
    events = [one for one in chain.from_iterable(zip_longest(*columns)) if one is not None]
    events += [chunk(c.index, {}, c.finish_reason) for c in choices]
    report = event({**head, "choices": [], "usage": _report(usage)}) if with_usage else b""
    return sse_answer(events, usage, report)


def _report(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
    }


def _choice(asked: Asked, messages: list[object], index: int) -> Choice:
    seed = words.derive(asked.seed, f"choice {index}")
    limit = _max_tokens(asked.body)
    tool = _tool(asked.body, messages) if limit else None
    if tool is not None:
        name, parameters = tool
        pieces = words.chopped(orjson.dumps(example(parameters) or {}).decode())
        reason = "tool_calls" if len(pieces) <= limit else "length"
        return Choice(index, pieces[:limit], reason, name, f"call_{seed.hex()[:24]}")
    pieces = _content(asked, seed)
    return Choice(index, pieces[:limit], "stop" if len(pieces) <= limit and limit else "length")


def _content(asked: Asked, seed: bytes) -> list[str]:
    wished = asked.wishes.words
    text = words.sentence(seed, words.how_many(seed) if wished is None else wished)
    wanted = asked.body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return words.chopped(orjson.dumps({"answer": "".join(text)}).decode())
    if kind == "json_schema" and isinstance(wanted, dict):
        described = wanted.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if not isinstance(schema, dict):
            raise ApiError(400, "'response_format.json_schema.schema' must be a JSON schema")
        return words.chopped(orjson.dumps(example(schema)).decode())
    return text


def _tool(body: dict[str, object], messages: list[object]) -> tuple[str, object] | None:
    """Name and parameters of the function to call: the chosen one, else the first; none once a tool has answered."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools or choice == "none":
        return None
    functions = _functions(tools)
    if isinstance(choice, dict):
        chosen = choice.get("function")
        wanted = chosen.get("name") if isinstance(chosen, dict) else None
        functions = [function for function in functions if function["name"] == wanted]
        if not functions:
            raise ApiError(400, f"'tool_choice' names {wanted!r}, which is not among 'tools'")
    elif choice != "required" and isinstance(messages[-1], dict) and messages[-1].get("role") == "tool":
        return None
    return str(functions[0]["name"]), functions[0].get("parameters")


def _functions(tools: object) -> list[dict[str, object]]:
    found = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    functions = [one for one in found if isinstance(one, dict) and isinstance(one.get("name"), str)]
    if not functions:
        raise ApiError(400, '\'tools\' must be an array of {"type": "function", "function": {"name", "parameters"}}')
    return functions


def _messages(body: dict[str, object]) -> list[object]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "'messages' must be a non-empty array", "missing_required_parameter")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, f"'messages[{number}]' must be an object with a role")
    return messages


def _how_many(body: dict[str, object]) -> int:
    n = count(body, "n", least=1) or 1
    if n > MOST_CHOICES:
        raise ApiError(400, f"'n' must be at most {MOST_CHOICES}")
    return n


def _max_tokens(body: dict[str, object]) -> int:
    """The lower of both spellings; the documented default where neither is set."""
    given = [limit for key in ("max_tokens", "max_completion_tokens") if (limit := count(body, key)) is not None]
    return min(given, default=DEFAULT_MAX_TOKENS)


def _wants_usage(body: dict[str, object]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
