"""models.yaml -> the models, aliases and defaults of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oxyy_proxy.policyfiles.document import Loc
from oxyy_proxy.policyfiles.limits import KnownModels
from oxyy_proxy.policyfiles.schema import ModelSpec, ModelsSpec, Spec
from oxyy_proxy.policyfiles.source import Source, suggestion
from oxyy_proxy.rules.types import Model, PartTokens, Price

NO_EFFECT = "accepted, but has no effect in this version"

ENDPOINTS_IN_EFFECT = ("chat", "embeddings")
UNITS_IN_EFFECT = ("input", "cached_input", "output", "audio_input", "audio_output", "request")
UNITS_WITH_VARIANTS = ("image", "video_second")
NEEDED = {"chat": ("input", "output"), "embeddings": ("input",)}
"""The units without which a request to the endpoint cannot be priced."""


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
    prices = spec.price.units()
    # As written: a unit whose price is wrong is an error already, not missing.
    written = source.names("models", name, "price")
    for index, endpoint in enumerate(spec.endpoints):
        if endpoint not in ENDPOINTS_IN_EFFECT:
            source.warn((*loc, "endpoints", index), f"endpoint {endpoint}: {NO_EFFECT}")
        missing = [unit for unit in NEEDED.get(endpoint, ()) if unit not in (written or ())]
        if missing:
            units = " and ".join(missing)
            refused = f"{endpoint} requests will be refused with model_not_priced"
            source.warn((*loc, "price"), f"'{name}' has no price for {units}: {refused}", key=True)
    return Model(
        name=name,
        endpoints=frozenset(spec.endpoints),
        prices={unit: _price(source, (*loc, "price", unit), unit, given) for unit, given in prices.items()},
        max_output_tokens=spec.max_output_tokens,
        fallbacks=tuple(spec.fallbacks),
        first_byte_s=spec.first_byte,
        answer_s=spec.answer,
    )


def _price(source: Source[ModelsSpec], loc: Loc, unit: str, given: Mapping[str, int]) -> Price:
    if unit not in UNITS_IN_EFFECT:
        source.warn(loc, f"price unit {unit}: {NO_EFFECT}", key=True)
    if len(given) > 1 and unit not in UNITS_WITH_VARIANTS:
        source.warn(loc, f"variants of {unit} have no effect: only its default counts", key=True)
    return Price(given["default"], {variant: amount for variant, amount in given.items() if variant != "default"})


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
