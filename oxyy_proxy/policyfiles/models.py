"""models.yaml -> the models, aliases and defaults of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.policyfiles.document import Loc
from oxyy_proxy.policyfiles.limits import KnownModels
from oxyy_proxy.policyfiles.schema import ModelSpec, ModelsSpec, PriceSpec, Spec
from oxyy_proxy.policyfiles.source import Source, suggestion
from oxyy_proxy.policyfiles.values import shown
from oxyy_proxy.rules.types import Model, PartTokens, Price

NEEDED = {endpoint.name: endpoint.bases for endpoint in ENDPOINTS}
"""Sets of price units by endpoint: without all of one of them, a request to it is refused."""

UNITS = tuple(PriceSpec.model_fields)
VARIANTS = {
    "image": (2, "a size, a quality or QUALITY:SIZE, such as 1024x1792, hd or hd:1024x1792"),
    "video_second": (1, "a resolution such as 1080p"),
}
"""The units whose price may have variants: how many parts the name of one has at most, and what it is."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What models.yaml says. `names`: see `KnownModels`; `models` holds those that are valid."""

    names: KnownModels = None
    models: Mapping[str, Model] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    default_models: Mapping[str, str] = field(default_factory=dict)
    part_tokens: PartTokens = field(default_factory=PartTokens)


def build_models(source: Source[ModelsSpec]) -> Catalogue:
    """Checks the file and everything in it that names a model."""
    spec, names = source.spec, source.names("models")
    if spec is None:
        return Catalogue(names)
    models = {name: _model(source, name, model) for name, model in spec.models.items()}
    catalogue = Catalogue(
        names, models, spec.aliases, dict[str, str](spec.default_models.items()), PartTokens(**dict(spec.part_tokens))
    )
    for name, model in spec.models.items():
        check_chain(source, ("models", name, "fallbacks"), name, model.fallbacks, catalogue)
    _check_aliases(source, catalogue)
    _check_defaults(source, catalogue)
    return catalogue


def check_chain(source: Source[Spec], loc: Loc, name: str, chain: Iterable[str], catalogue: Catalogue) -> None:
    """Reports what is wrong with the fallbacks, written at `loc`, of the model `name`."""
    seen = {name}
    for index, fallback in enumerate(chain):
        if fallback in seen:
            source.error((*loc, index), f"'{fallback}' stands twice in the chain of '{name}'")
        elif check_model(source, (*loc, index), fallback, catalogue):
            _check_useful(source, (*loc, index), name, fallback, catalogue)
        seen.add(fallback)


def check_model(source: Source[Spec], loc: Loc, name: str, catalogue: Catalogue, *, key: bool = False) -> bool:
    """Whether models.yaml has the model; reports it if not."""
    if catalogue.names is None or name in catalogue.names:
        return True
    alias = catalogue.aliases.get(name)
    hint = f"; it is an alias, name '{alias}'" if alias else suggestion(name, catalogue.names)
    source.error(loc, f"unknown model '{name}'{hint}", key=key)
    return False


def _check_useful(source: Source[Spec], loc: Loc, name: str, fallback: str, catalogue: Catalogue) -> None:
    first, second = catalogue.models.get(name), catalogue.models.get(fallback)
    if first and second and not first.endpoints & second.endpoints:
        serves = ", ".join(sorted(first.endpoints))
        source.warn(loc, f"'{fallback}' is never used here: it does not serve {serves} as '{name}' does")


def _model(source: Source[ModelsSpec], name: str, spec: ModelSpec) -> Model:
    loc: Loc = ("models", name)
    # As written: a unit whose price is wrong is an error already, not missing.
    _check_priced(source, loc, name, spec.endpoints, source.names("models", name, "price") or frozenset())
    _check_seconds(source, loc, name, spec)
    prices = spec.price.units()
    return Model(
        name=name,
        endpoints=frozenset(spec.endpoints),
        prices={unit: _price(source, (*loc, "price", unit), unit, given) for unit, given in prices.items()},
        max_output_tokens=spec.max_output_tokens,
        fallbacks=tuple(spec.fallbacks),
        first_byte_s=spec.first_byte,
        answer_s=spec.answer,
        default_seconds=spec.default_seconds,
        max_seconds=spec.max_seconds,
    )


def _check_priced(
    source: Source[ModelsSpec], loc: Loc, name: str, endpoints: Iterable[str], units: frozenset[str]
) -> None:
    for endpoint in endpoints:
        missing = [_in_words(needed - units) for needed in NEEDED[endpoint]]
        by_tokens = [needed for needed in NEEDED[endpoint] if "input" in needed]
        if all(missing):
            others = ", ".join(f"or for {words}" for words in missing[1:])
            lacking = f"{missing[0]} ({others})" if others else missing[0]
            refused = f"{endpoint} requests will be refused with model_not_priced"
            source.warn((*loc, "price"), f"'{name}' has no price for {lacking}: {refused}", key=True)
        elif "input" in units and by_tokens and not any(needed <= units for needed in by_tokens):
            # A model with a price for input is charged by tokens wherever the upstream counts them.
            partly = f"{endpoint} answers that say how many tokens they took are charged for their input alone"
            source.warn((*loc, "price", "input"), f"there is a price for input and none for output: {partly}", key=True)


def _in_words(units: frozenset[str]) -> str:
    return " and ".join(sorted(units, key=UNITS.index))


def _check_seconds(source: Source[ModelsSpec], loc: Loc, name: str, spec: ModelSpec) -> None:
    if spec.default_seconds and spec.max_seconds and spec.default_seconds > spec.max_seconds:
        expected = f"expected at most the {spec.max_seconds} of max_seconds, got {spec.default_seconds}"
        source.error((*loc, "default_seconds"), expected)
    for given in ("default_seconds", "max_seconds"):
        if given in spec.model_fields_set and "videos" not in spec.endpoints:
            source.warn((*loc, given), f"{given} has no effect: '{name}' does not serve videos", key=True)


def _price(source: Source[ModelsSpec], loc: Loc, unit: str, given: Mapping[str, int]) -> Price:
    if unit in VARIANTS:
        return Price(given["default"], _variants(source, loc, unit, given))
    if len(given) > 1:
        source.warn(loc, f"variants of {unit} have no effect: only its default counts", key=True)
    return Price(given["default"])


def _variants(source: Source[ModelsSpec], loc: Loc, unit: str, given: Mapping[str, int]) -> dict[str, int]:
    """The price of each variant but `default`, as requests are compared with it: without blanks, in lower case."""
    most, expected = VARIANTS[unit]
    variants: dict[str, int] = {}
    written_as = {"default": "default"}
    for written, amount in given.items():
        if written == "default":
            continue
        parts = [part.strip().lower() for part in written.split(":")]
        variant = ":".join(parts)
        if len(parts) > most or not all(parts):
            source.error((*loc, written), f"expected {expected}, got {shown(written)}", key=True)
        elif variant in written_as:
            same = f"the variant {shown(written)} is the same as {shown(written_as[variant])}; keep one of the two"
            source.error((*loc, written), same, key=True)
        else:
            written_as[variant], variants[variant] = written, amount
    return variants


def _check_aliases(source: Source[ModelsSpec], catalogue: Catalogue) -> None:
    for alias, model in catalogue.aliases.items():
        if catalogue.names and alias in catalogue.names:
            source.error(("aliases", alias), f"the alias '{alias}' is also the name of a model", key=True)
        check_model(source, ("aliases", alias), model, catalogue)


def _check_defaults(source: Source[ModelsSpec], catalogue: Catalogue) -> None:
    for endpoint, name in catalogue.default_models.items():
        loc: Loc = ("default_models", endpoint)
        known = check_model(source, loc, name, catalogue)
        model = catalogue.models.get(name)
        if known and model and endpoint not in model.endpoints:
            source.error(loc, f"'{name}' does not serve {endpoint}; it serves {', '.join(sorted(model.endpoints))}")
