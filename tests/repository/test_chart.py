"""The Helm chart renders what the gateway accepts, and refuses values that could not work.

By helm itself, where it is installed or docker/lint.sh has fetched it; what is rendered that script holds against
Kubernetes' schemas.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gomodel.config.load import from_environ
from gomodel.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "docker/helm/gomodel"
VALUES = [CHART / "values.yaml", *sorted((CHART / "ci").iterdir())]
HELM = shutil.which("helm") or str(ROOT / ".venv-deploy/bin/helm")


def rendered(*options: str) -> subprocess.CompletedProcess[str]:
    if not Path(HELM).exists():
        pytest.skip("no helm here: make lint-deploy fetches it")
    return subprocess.run([HELM, "template", "gomodel", CHART, *options], capture_output=True, text=True, check=False)


def objects(*options: str) -> dict[str, Any]:
    done = rendered(*options)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_what_is_rendered_is_a_configuration_without_a_warning(values: Path, tmp_path: Path) -> None:
    deployment = objects("--values", str(values))["Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    environ = {each["name"]: each["value"] for each in container(deployment)["env"]}
    files = {value for value in environ.values() if value.startswith("/run/secrets/")}
    secrets = [
        source["secret"] for each in spec["volumes"] if "projected" in each for source in each["projected"]["sources"]
    ]
    mounted = {f"/run/secrets/gomodel/{item['path']}" for each in secrets for item in each["items"]}
    assert mounted == files
    content = {"GOMODEL_REDIS_URL_FILE": "redis://r:6379/0", "GOMODEL_DATABASE_URL_FILE": "postgresql://u:p@h/g"}
    for name in [name for name, value in environ.items() if value in files]:
        path = tmp_path / name
        path.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\n' if "KEYS" in name else content.get(name, "k" * 32) + "\n")
        environ[name] = str(path)
    if "GOMODEL_MASTER_KEY_FILE" not in environ:
        environ["GOMODEL_MASTER_KEY"] = "k" * 32
    config = from_environ({**environ, "HOST": "::", "GOMODEL_DATA_DIR": str(tmp_path)})
    assert config.warnings == ()
    assert spec["terminationGracePeriodSeconds"] >= config.drain_s + 15


def test_each_instance_has_its_variables() -> None:
    environ = {
        each["name"]: each["value"] for each in container(objects("--values", str(VALUES[1]))["Deployment"])["env"]
    }
    assert environ["VLLM_EU_WEST_2_BASE_URL"] == "https+dns://vllm.eu:8000/v1"
    assert environ["VLLM_MAX_IN_FLIGHT"] == "64"
    assert environ["VLLM_API_KEY_FILE"] == "/run/secrets/gomodel/vllm-api-key"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["batches.enabled=true"], "batches.database.secret"),
        (["batches.enabled=true", "batches.database.secret=d"], "batches.accessMode=ReadWriteMany"),
        (["ingress.enabled=true"], "ingress.host"),
        (["env.GOMODEL_DATA_DIR=/data"], "env.GOMODEL_DATA_DIR"),
        (["env.router=least"], "/env"),
        (["instances.other.baseUrl=http://x"], "/instances"),
        (["instances.vllm.baseUrl=vllm:8000"], "/instances/vllm/baseUrl"),
        (["instances.vllm.apiKey.secret=s"], "/instances/vllm/apiKey"),
        (["replica=3"], "replica"),
    ],
    ids=lambda each: each[0].partition("=")[0] if isinstance(each, list) else "",
)
def test_values_that_cannot_work_are_refused_by_their_name(options: list[str], said: str) -> None:
    done = rendered(*(word for each in options for word in ("--set-string" if each[:3] == "env" else "--set", each)))
    assert done.returncode == 1
    assert said in done.stderr


def test_a_pod_of_its_own_may_keep_its_files_alone_and_is_replaced_before_the_next_one_starts() -> None:
    found = objects("--values", str(CHART / "ci/one-values.yaml"))
    assert found["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "Secret" not in found


def test_a_key_that_was_made_is_long_and_stays_when_the_release_goes() -> None:
    secret = objects()["Secret"]
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert len(secret["data"]["master-key"]) >= 64


def test_prometheus_asks_with_the_key_at_the_path_of_the_metrics() -> None:
    (endpoint,) = objects("--values", str(VALUES[1]))["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["path"] == "/llm/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "gomodel", "key": "master"}


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
