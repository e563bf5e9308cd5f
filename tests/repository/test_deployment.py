"""The container image, the compose file, the Kubernetes manifests and the systemd units agree with the gateway.

Read here, not run: docker/rehearse.sh runs what the image would, docker/lint.sh validates against published schemas.
"""

import re
import shlex
from configparser import RawConfigParser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gomodel.config.instances import INSTANCE_VARIABLE
from gomodel.config.load import from_environ
from gomodel.config.registry import VARIABLES
from gomodel.config.values import duration_s
from gomodel.operations.families import FAMILIES
from gomodel.process.restarts import Limits
from gomodel.routes.route import Kind
from gomodel.routes.router import Router
from gomodel.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
MANIFESTS = ("gateway.yaml", "sidecar.yaml", "vllm.yaml")
GATEWAY_MANIFESTS = ("gateway.yaml", "sidecar.yaml")
KEYS = {"GOMODEL_MASTER_KEY", "GOMODEL_MASTER_KEY_FILE"}
PYTHONS = {"TMPDIR"}
# What a process needs beyond the drain limit to close and exit.
MARGIN_S = 5


def manifests(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes" / file).read_text()))


def of_kind(file: str, kind: str) -> dict[str, Any]:
    (found,) = [each for each in manifests(file) if each["kind"] == kind]
    return found


def pod(file: str) -> dict[str, Any]:
    (found,) = [each for each in manifests(file) if each["kind"] in ("Deployment", "StatefulSet")]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def container(file: str, name: str) -> dict[str, Any]:
    spec = pod(file)
    found: dict[str, Any]
    (found,) = [each for each in spec["containers"] + spec.get("initContainers", []) if each["name"] == name]
    return found


def k8s_environ(file: str, name: str = "gomodel") -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(file, name)["env"]}


COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
GATEWAY_ENVIRONS = [
    pytest.param(COMPOSE["services"]["gomodel"]["environment"], id="compose"),
    pytest.param(COMPOSE["services"]["demo"]["environment"], id="compose demo"),
    *(pytest.param(k8s_environ(file), id=file) for file in GATEWAY_MANIFESTS),
]


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """A unit file's sections; an option given twice has two values."""
    parsed: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (DOCKER / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            option, _, value = line.partition("=")
            parsed.setdefault(section, {}).setdefault(option, []).append(value)
    return parsed


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


def last_stage() -> list[tuple[str, str]]:
    instructions = dockerfile()
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[start:]


@pytest.mark.parametrize("environ", GATEWAY_ENVIRONS)
def test_every_variable_is_one_that_the_gateway_reads(environ: dict[str, str]) -> None:
    unknown = {name for name in environ if name not in {*VARIABLES, *KEYS, *PYTHONS}}
    assert {name for name in unknown if INSTANCE_VARIABLE.fullmatch(name) is None} == set()


@pytest.mark.parametrize("environ", GATEWAY_ENVIRONS)
def test_the_gateway_accepts_the_settings_without_a_warning(environ: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32 + "\n")
    # Key files stand where the orchestrator mounts them, which is not here.
    environ = {name: str(key) if name.endswith("_FILE") else value for name, value in environ.items()}
    environ.setdefault("GOMODEL_MASTER_KEY_FILE", str(key))
    environ.setdefault("VLLM_BASE_URL", "http://vllm:8000/v1")
    assert from_environ(environ).warnings == ()


def test_comments_name_no_variable_that_the_gateway_does_not_read() -> None:
    known = re.compile(r"\b(?:GOMODEL|METRICS|HTTP|RETRY|CIRCUIT_BREAKER|PASSTHROUGH|TLS)_[A-Z][A-Z_]*\b")
    files = [DOCKER / "Dockerfile", DOCKER / "healthcheck.py", DOCKER / "gomodel.service", DOCKER / "compose.yaml"]
    files += [DOCKER / "kubernetes" / name for name in MANIFESTS]
    found = {name for file in files for name in known.findall(file.read_text())}
    # The one that the manifests warn of, and the one that setup.py reads.
    assert found - {"GOMODEL_PORT", "GOMODEL_COMPILE"} - set(VARIABLES) - KEYS == set()
    assert len(found) > 5


@pytest.mark.parametrize("file", GATEWAY_MANIFESTS)
def test_mounted_keys_are_where_the_variables_say(file: str) -> None:
    mounts = {each["name"]: each["mountPath"] for each in container(file, "gomodel")["volumeMounts"]}
    files = [value for name, value in k8s_environ(file).items() if name.endswith("_FILE")]
    assert files
    assert all(str(Path(each).parent) == mounts["keys"] for each in files)
    # The commands in the file's head make the keys that are mounted.
    made = re.findall(r"--from-literal=([\w-]+)=", (DOCKER / "kubernetes" / file).read_text())
    assert {Path(each).name for each in files} == set(made)


def test_compose_mounts_the_key_where_the_variable_says() -> None:
    gateway = COMPOSE["services"]["gomodel"]
    assert gateway["environment"]["GOMODEL_MASTER_KEY_FILE"] == f"/run/secrets/{gateway['secrets'][0]}"
    path = COMPOSE["secrets"][gateway["secrets"][0]]["file"]
    assert (DOCKER / path).parent == DOCKER / "secrets"
    assert "*" in (DOCKER / "secrets" / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("file", GATEWAY_MANIFESTS)
@pytest.mark.parametrize(("name", "kind"), [("readinessProbe", Kind.READY), ("livenessProbe", Kind.HEALTH)])
def test_probes_ask_routes_that_are_open_without_a_key(file: str, name: str, kind: Kind) -> None:
    probe = container(file, "gomodel")[name]["httpGet"]
    router = Router(
        base_path="/",
        passthrough=True,
        passthrough_v1_alias=True,
        passthrough_admin=False,
        metrics_path="/metrics",
        metrics_public=False,
    )
    route = router.resolve(probe["path"])
    assert (route.kind, route.open, probe["port"]) == (kind, True, "http")


def test_ports_agree() -> None:
    port = VARIABLES["PORT"].value
    assert [argument for word, argument in last_stage() if word == "EXPOSE"] == [str(port)]
    assert {each.split(":")[-1] for name in ("gomodel", "demo") for each in COMPOSE["services"][name]["ports"]} == {
        str(port)
    }
    for file in GATEWAY_MANIFESTS:
        assert container(file, "gomodel")["ports"] == [{"name": "http", "containerPort": port}]
        assert [each["targetPort"] for each in of_kind(file, "Service")["spec"]["ports"]] == ["http"]
    assert unit("gomodel.socket")["Socket"]["ListenStream"] == [str(port)]


def test_instances_are_where_vllm_listens() -> None:
    compose = COMPOSE["services"]["vllm"]["command"]
    assert COMPOSE["services"]["gomodel"]["environment"]["VLLM_BASE_URL"] == "http://vllm:8000/v1"
    assert compose[compose.index("--port") + 1] == "8000"
    sidecar = container("sidecar.yaml", "vllm")["command"]
    assert sidecar[sidecar.index("--host") + 1] == "127.0.0.1"
    assert k8s_environ("sidecar.yaml")["VLLM_BASE_URL"] == "http://127.0.0.1:8000/v1"
    pods = of_kind("vllm.yaml", "StatefulSet")
    service = of_kind("vllm.yaml", "Service")
    assert (service["spec"]["clusterIP"], service["metadata"]["name"]) == ("None", pods["spec"]["serviceName"])
    (at,) = service["spec"]["ports"]
    urls = {value for name, value in k8s_environ("gateway.yaml").items() if name.endswith("_BASE_URL")}
    assert urls == {f"http+dns://{service['metadata']['name']}:{at['port']}/v1"}
    # Who is not ready has no address, as who ends; a name of all pods would be a list of those that cannot answer.
    assert not service["spec"].get("publishNotReadyAddresses")


def test_pods_are_scaled_by_a_metric_that_the_gateway_has() -> None:
    scaler = of_kind("autoscaling.yaml", "HorizontalPodAutoscaler")["spec"]
    pods = of_kind("vllm.yaml", "StatefulSet")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": pods["metadata"]["name"],
    }
    (metric,) = [each["external"]["metric"] for each in scaler["metrics"]]
    (family,) = [each for each in FAMILIES if each.name == metric["name"]]
    assert family.labels == tuple(metric["selector"]["matchLabels"]) == ("upstream",)
    assert metric["selector"]["matchLabels"]["upstream"] == "vllm"
    assert f"'{metric['name']}{{" in (DOCKER / "kubernetes" / "autoscaling.yaml").read_text()


@pytest.mark.parametrize("file", MANIFESTS)
def test_services_select_the_pods_beside_them(file: str) -> None:
    (workload,) = [each for each in manifests(file) if each["kind"] in ("Deployment", "StatefulSet")]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert of_kind(file, "Service")["spec"]["selector"] == labels


def test_everything_about_the_gateway_selects_its_pods() -> None:
    deployment = of_kind("gateway.yaml", "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert of_kind("gateway.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    target = of_kind("gateway.yaml", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    # The autoscaler owns the number; one here would win at every apply.
    assert "replicas" not in deployment["spec"]
    policy = of_kind("gateway.yaml", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == of_kind("vllm.yaml", "Service")["spec"]["selector"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": labels}}]


@pytest.mark.parametrize("file", GATEWAY_MANIFESTS)
def test_a_pod_may_drain_to_the_limit_before_it_is_killed(file: str) -> None:
    before = container(file, "gomodel")["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = duration_s(k8s_environ(file)["GOMODEL_DRAIN_TIMEOUT"])
    assert pod(file)["terminationGracePeriodSeconds"] >= before + drain + MARGIN_S


def test_a_vllm_pod_may_finish_what_the_gateway_may() -> None:
    serve = container("vllm.yaml", "vllm")
    before = serve["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(serve["command"][serve["command"].index("--shutdown-timeout") + 1])
    assert drain >= duration_s(k8s_environ("gateway.yaml")["GOMODEL_DRAIN_TIMEOUT"])
    assert pod("vllm.yaml")["terminationGracePeriodSeconds"] >= before + drain + MARGIN_S


def test_vllm_in_the_same_pod_is_stopped_after_the_gateway() -> None:
    (vllm,) = pod("sidecar.yaml")["initContainers"]
    assert (vllm["name"], vllm["restartPolicy"]) == ("vllm", "Always")


def test_compose_and_systemd_wait_for_the_drain() -> None:
    gateway = COMPOSE["services"]["gomodel"]
    drain = duration_s(gateway["environment"]["GOMODEL_DRAIN_TIMEOUT"])
    assert duration_s(gateway["stop_grace_period"]) >= drain + MARGIN_S
    # What a service depends on is stopped after it.
    assert gateway["depends_on"] == ["vllm"]
    default = VARIABLES["GOMODEL_DRAIN_TIMEOUT"].value
    assert int(unit("gomodel.service")["Service"]["TimeoutStopSec"][0]) >= default + MARGIN_S


def test_systemds_watchdog_leaves_time_to_replace_a_worker_that_hangs() -> None:
    limits = Limits()
    replaced_s = limits.beat_s * (limits.silent_beats + 1)
    assert int(unit("gomodel.service")["Service"]["WatchdogSec"][0]) / 2 >= replaced_s


@pytest.mark.parametrize("file", GATEWAY_MANIFESTS)
def test_the_gateways_container_has_no_rights(file: str) -> None:
    own, around = container(file, "gomodel")["securityContext"], pod(file)["securityContext"]
    context = {**around, **own}
    # The Pod Security Standard "restricted", and a file system that nobody writes to.
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    (user,) = [argument for word, argument in last_stage() if word == "USER"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.parametrize("file", MANIFESTS)
def test_no_pod_gets_variables_named_after_services(file: str) -> None:
    # A Service called vllm would set VLLM_PORT, which vLLM reads as its own.
    assert pod(file)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["gomodel", "demo"])
def test_the_gateways_service_has_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["gomodel", "demo"])
def test_uploads_that_wait_in_a_file_are_not_in_memory_under_compose(name: str) -> None:
    service = COMPOSE["services"][name]
    assert "tmpfs" not in service
    (volume,) = [each.split(":") for each in service["volumes"]]
    assert volume[0] in COMPOSE["volumes"]
    assert volume[1] == service["environment"]["TMPDIR"]


@pytest.mark.parametrize("file", GATEWAY_MANIFESTS)
def test_uploads_that_wait_in_a_file_are_not_in_memory_under_kubernetes(file: str) -> None:
    mounts = {each["mountPath"]: each["name"] for each in container(file, "gomodel")["volumeMounts"]}
    (volume,) = [each for each in pod(file)["volumes"] if each["name"] == mounts["/tmp"]]
    assert set(volume["emptyDir"]) == {"sizeLimit"}


def test_vllm_is_published_by_the_gateway_alone() -> None:
    assert "ports" not in COMPOSE["services"]["vllm"]
    assert all(each.startswith("127.0.0.1:") for each in COMPOSE["services"]["demo"]["ports"])


def test_every_file_uses_the_image_of_this_version() -> None:
    assert {COMPOSE["services"][name]["image"] for name in ("gomodel", "demo")} == {f"gomodel:{VERSION}"}
    assert {container(file, "gomodel")["image"] for file in GATEWAY_MANIFESTS} == {f"gomodel:{VERSION}"}
    assert f"-t gomodel:{VERSION}" in (DOCKER / "Dockerfile").read_text()
    assert f"gomodel-{VERSION}-py3" in (DOCKER / "gomodel.service").read_text()
    vllm = {COMPOSE["services"]["vllm"]["image"], *(container(file, "vllm")["image"] for file in MANIFESTS[1:])}
    assert len(vllm) == 1
    assert re.fullmatch(r"vllm/vllm-openai:v[0-9.]+", vllm.pop())


def test_the_image_starts_python_as_pid_1_and_without_root() -> None:
    stage = dict(last_stage())
    assert stage["ENTRYPOINT"] == '["python", "-m", "gomodel"]'
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert "CMD" not in stage
    assert int(stage["USER"].partition(":")[0]) > 0


def test_the_image_is_built_from_what_the_context_lets_through() -> None:
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for word, argument in dockerfile()
        if word == "COPY" and not argument.startswith("--from")
        for source in shlex.split(argument)[:-1]
    ]
    assert sorted(copied) == sorted(let_through)
    assert all((ROOT / each).exists() for each in copied)


def test_the_image_checks_health_with_the_file_it_copies() -> None:
    stage = last_stage()
    (target,) = [
        shlex.split(argument)[1] for word, argument in stage if word == "COPY" and "healthcheck.py" in argument
    ]
    (check,) = [argument for word, argument in stage if word == "HEALTHCHECK"]
    assert target in check


def requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []  # the image's Python needs it and this one does not: that it is pinned is all that can be seen


def test_constraints_pin_every_dependency_to_a_version_that_setup_cfg_allows() -> None:
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, version in pairs}
    cfg = RawConfigParser()
    cfg.read(ROOT / "setup.cfg")
    extras = cfg["options.extras_require"]  # which the image has
    declared = (cfg["options"]["install_requires"] + extras["redis"] + extras["batch"] + extras["otel"]).splitlines()
    # The image's CPython, which need not be the one that runs this: what a package needs depends on it.
    (python,) = {
        found[1]
        for word, arg in dockerfile()
        if word == "ARG" and (found := re.fullmatch(r"PYTHON_IMAGE=python:(3\.\d+)-.*", arg))
    }
    image = {"python_version": python, "python_full_version": f"{python}.99"}
    wanted, seen = [(Requirement(line), {""}) for line in declared if line and not line.startswith("#")], set()
    while wanted:
        requirement, extras = wanted.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra, **image}) for extra in extras):
            continue
        assert name in pinned, f"{name} floats"
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {requirement.specifier}"
        if name not in seen:
            seen.add(name)
            wanted += [(Requirement(line), {"", *requirement.extras}) for line in requirements(name)]
    assert set(pinned) - seen == {"setuptools"}


def test_the_unit_tells_systemd_what_the_gateway_tells_it() -> None:
    service = unit("gomodel.service")["Service"]
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert service["ExecReload"] == ["/bin/kill -USR2 $MAINPID"]
    # sysexits' EX_USAGE is what a wrong configuration ends with.
    assert service["RestartPreventExitStatus"] == ["64"]
    # systemd keeps /etc/<name> for the unit and the gateway reads its .env there.
    assert service["WorkingDirectory"] == [f"/etc/{service['ConfigurationDirectory'][0]}"]
    for option, value in (("DynamicUser", "yes"), ("ProtectSystem", "strict"), ("NoNewPrivileges", "yes")):
        assert service[option] == [value]
