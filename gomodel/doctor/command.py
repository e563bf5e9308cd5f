"""`gomodel doctor`: which instances are examined through which gateways, and what is printed of it.

Decides what a model is called at each place, and which failure to begin is whose.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.header_fields import bearer_token
from ..config.settings import Config, InstanceConfig, Secret
from ..host.terminal import shows_colours
from ..version import VERSION
from .client import UNTRUSTED
from .diagnosis import Diagnosis, diagnose
from .examination import Effort, Examination
from .exchange import Exchange
from .models import entries_of, name_through, version
from .places import Place, key_in, of_gateway, of_instance, place_of
from .report import Redaction, as_json, table, verdict


@dataclass(frozen=True)
class Asked:
    """What the command line says. `through` [] is the gateway that the configuration describes."""

    through: Sequence[str]
    instance: str | None
    model: str | None
    key_file: Path | None
    insecure: bool
    as_json: bool
    effort: Effort


class Refused(Exception):
    """It cannot be examined; the message is for whoever typed the command."""


class WrongUse(Refused):
    """The command line makes no sense."""


def doctor(config: Config, asked: Asked) -> bool:
    """Print the report; whether nothing is broken. Raises Refused."""
    key = key_of(config, asked)
    instances = _instances(config, asked)
    gateways = [_through(url, key, insecure=asked.insecure) for url in asked.through]
    redact = Redaction([key, *config.master_keys, *(each.api_key for each in instances)])
    diagnoses = []
    for instance in instances:
        found = asyncio.run(_examine(instance, gateways or [of_gateway(config, key)], asked))
        diagnoses.append(found)
        if not asked.as_json:
            head = "" if len(diagnoses) > 1 else f"gomodel {VERSION} doctor\n"
            print(redact(f"{head}{table(found, colours=shows_colours(sys.stdout))}\n{verdict(found)}"))
    if asked.as_json:
        print(redact(as_json(diagnoses)))
    return all(each.well for each in diagnoses)


def _instances(config: Config, asked: Asked) -> list[InstanceConfig]:
    found = [each for each in config.instances if asked.instance in (None, each.name)]
    if not found:
        names = ", ".join(each.name for each in config.instances)
        raise WrongUse(f"--instance {asked.instance} is none of {names}")
    if asked.model is not None and len(found) > 1:
        raise WrongUse("--model names the model of one instance: say which with --instance")
    return found


def _through(url: str, key: Secret | None, *, insecure: bool) -> Place:
    try:
        return place_of(url, key, insecure=insecure)
    except ValueError as error:
        # What stands before the last "@" may be a password.
        raise WrongUse(f"--through {url.rpartition('@')[2]}: {error}") from None


def key_of(config: Config, asked: Asked) -> Secret | None:
    """That of the gateways."""
    try:
        if asked.key_file is not None:
            source = f"--key-file {asked.key_file}"
            return key_in(asked.key_file)
        if config.master_keys:
            return config.master_keys[0]
        source = "OPENAI_API_KEY"
        given = os.environ.get(source)
        return Secret(bearer_token(given)) if given else None
    except OSError as error:
        raise WrongUse(f"{source}: {error.strerror}") from None
    except ValueError as error:
        raise WrongUse(f"{source}: {error}") from None


async def _examine(instance: InstanceConfig, gateways: Sequence[Place], asked: Asked) -> Diagnosis:
    direct = of_instance(instance)
    exchange, entries = await entries_of(direct)
    if not entries:
        hint = "; is VLLM_BASE_URL set?" if instance.assumed else ""
        where = f"{instance.name} cannot be asked directly at {direct.shown}"
        raise Refused(f"{where}: GET /v1/models: {_why(exchange)}{hint}")
    served = [str(each["id"]) for each in entries]
    named = asked.model or served[0]
    model = next((each for each in served if named == each or named.endswith(f"/{each}")), served[0])
    context = next((each.get("max_model_len") or 0 for each in entries if each["id"] == model), 0)
    direct = replace(direct, model=model)
    named_gateways = [await with_model(place, instance.name, model, asked.model) for place in gateways]
    servers = [of_instance(replace(instance, servers=(server,))) for server in instance.servers]
    seen = await Examination(direct, servers, named_gateways, asked.effort, _progress, int(context)).run()
    _progress("")
    answers = [*seen[0].answers, *seen[0].streams]
    if not any(each.well for each in answers):
        where = f"{model} of {instance.name} answers no chat at {direct.shown}"
        raise Refused(f"{where}, directly: {answers[0].in_words}. Nothing can be compared.")
    return diagnose(instance.name, await version(direct), seen)


async def with_model(place: Place, instance: str, model: str, given: str | None) -> Place:
    """The place, with what it calls the model."""
    exchange, entries = await entries_of(place)
    # Who names the model needs no list.
    listed = given is not None or exchange.well
    if exchange.end == "unreachable" or exchange.status in (401, 403) or not listed:
        raise Refused(f"{place.shown} cannot be asked: GET /v1/models: {_why(exchange)}")
    name = given or name_through([str(each["id"]) for each in entries], instance, model)
    if name is None:
        raise Refused(f"{place.shown} has no model like {model} in its list: name it with --model")
    return replace(place, model=name)


def _why(exchange: Exchange) -> str:
    if exchange.why == UNTRUSTED:
        return f"{UNTRUSTED}; --insecure takes any"
    if exchange.status in (401, 403):
        return f"{exchange.status}; is the key right?"
    return exchange.in_words if exchange.status != 200 else "200 without a list of models"


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}{' ...' if what else ''}", end="", file=sys.stderr, flush=True)
