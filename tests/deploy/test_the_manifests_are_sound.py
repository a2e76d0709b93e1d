"""deploy/kubernetes against the schemas of Kubernetes, and each part against the others."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.kubernetes.generate import TARGET, prometheus_rule
from stream_rnn import app

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE, GPU, MONITORING = (KUBERNETES / name for name in ("base", "gpu", "monitoring"))
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
SCHEMAS = Path(__file__).parent / "schemas"
MANIFESTS = sorted(path for path in BASE.glob("*.yml") if path.stem != "kustomization")
Manifest = dict[str, Any]


def manifest(path: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load(path.read_text())
    return loaded


def merged(base: Any, patch: Any) -> Any:
    """As kustomize does: tables by key, lists of named things by name."""
    if isinstance(base, dict):
        keys = {**base, **patch}
        return {k: merged(base[k], patch[k]) if k in base and k in patch else keys[k] for k in keys}
    if isinstance(base, list) and all("name" in each for each in patch):
        changes = {each["name"]: each for each in patch}
        return [merged(each, changes.get(each["name"], {})) for each in base]
    return patch


@pytest.fixture
def stateful_set() -> Manifest:
    return manifest(BASE / "statefulset.yml")


@pytest.fixture
def pod(stateful_set: Manifest) -> Manifest:
    found: Manifest = stateful_set["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_accepts_every_line(judge, path):
    said = judge("kubernetes-validate", "--strict", path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_kubernetes_would_refuse_a_misspelled_line(judge, tmp_path):
    wrong = tmp_path / "statefulset.yml"
    text = (BASE / "statefulset.yml").read_text()
    wrong.write_text(text.replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    said = judge("kubernetes-validate", "--strict", wrong)
    assert said.returncode != 0
    assert "terminationGraceSeconds" in said.stdout + said.stderr


def test_kubernetes_accepts_the_gpu_overlay_over_the_base(judge, tmp_path, stateful_set):
    overlaid = merged(stateful_set, manifest(GPU / "statefulset.yml"))
    (container,) = overlaid["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "1"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    path = tmp_path / "statefulset.yml"
    path.write_text(yaml.safe_dump(overlaid))
    said = judge("kubernetes-validate", "--strict", path)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("name", ["servicemonitor", "prometheusrule"])
def test_the_operators_resources_meet_their_schemas(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.validate(manifest(MONITORING / f"{name}.yml"), schema)


@pytest.mark.parametrize("name", ["servicemonitor", "prometheusrule"])
def test_the_schemas_would_refuse_a_misspelled_line(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    wrong = copy.deepcopy(manifest(MONITORING / f"{name}.yml"))
    wrong["spec"]["intervall"] = "5s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        jsonschema.validate(wrong, schema)


def test_the_operators_rules_are_generated_from_prometheus_own():
    assert TARGET.read_text() == prometheus_rule(), "python -m deploy.kubernetes.generate"
    assert manifest(TARGET)["spec"] == manifest(RULES)


@pytest.mark.parametrize("folder", [BASE, GPU, MONITORING], ids=lambda path: path.name)
def test_a_kustomization_names_every_file_of_its_folder_and_no_other(folder):
    kustomization = manifest(folder / "kustomization.yml")
    named = [*kustomization["resources"], *(p["path"] for p in kustomization.get("patches", []))]
    files = {path.name for path in folder.glob("*.yml")} - {"kustomization.yml"}
    assert {name for name in named if not name.startswith("..")} == files
    assert all((folder / name).exists() for name in named)


def test_no_manifest_names_a_namespace():
    for path in KUBERNETES.rglob("*.yml"):
        assert "namespace" not in manifest(path).get("metadata", {}), path


def test_there_is_one_owner_of_the_state(stateful_set):
    assert stateful_set["spec"]["replicas"] == 1
    kept = stateful_set["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert set(kept.values()) == {"Retain"}


def test_selectors_find_the_pod(stateful_set):
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    service = manifest(BASE / "service.yml")
    assert stateful_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    for name in ("networkpolicy", "poddisruptionbudget"):
        spec = manifest(BASE / f"{name}.yml")["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        assert selector["matchLabels"].items() <= labels.items()
    monitor = manifest(MONITORING / "servicemonitor.yml")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= service["metadata"]["labels"].items()


def test_ports_are_named_the_same_everywhere(pod):
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = manifest(BASE / "service.yml")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {"metrics"}
    rules = manifest(BASE / "networkpolicy.yml")["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == set(ports)
    (endpoint,) = manifest(MONITORING / "servicemonitor.yml")["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service}


def test_the_job_has_the_name_that_the_alerts_ask_for():
    # the operator names a job after its Service
    assert f'up{{job="{manifest(BASE / "service.yml")["metadata"]["name"]}"}}' in RULES.read_text()


def test_the_daemon_accepts_the_configuration_and_listens_where_it_is_asked(pod):
    data = manifest(BASE / "configmap.yml")["data"]
    tables = tomllib.loads(data["config.toml"])
    app.build(tables)
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert tables["metrics"]["address"] == f"0.0.0.0:{ports['metrics']}"
    assert tables["source"]["address"] == f"tcp://0.0.0.0:{ports['events']}"


def test_what_is_mounted_is_declared(stateful_set, pod):
    claims = {each["metadata"]["name"] for each in stateful_set["spec"]["volumeClaimTemplates"]}
    volumes = {each["name"] for each in pod["volumes"]}
    assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == claims | volumes
    assert pod["volumes"][0]["configMap"]["name"] == "stream-rnn"
    assert manifest(BASE / "configmap.yml")["metadata"]["name"] == "stream-rnn"


def test_the_pod_satisfies_the_restricted_profile(pod):
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "name"}
    assert all(set(volume) <= allowed for volume in pod["volumes"])


def test_the_pod_writes_to_its_volume_only_as_the_user_of_the_image(pod):
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    user = str(pod["securityContext"]["runAsUser"])
    assert f"USER {user}:{user}" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]


def test_a_new_pod_is_asked_for_where_nothing_else_helps_and_only_there(pod):
    (container,) = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_pod_has_as_long_to_leave_as_the_service_of_systemd(pod):
    unit = (ROOT / "deploy" / "systemd" / "stream-rnn.service").read_text()
    assert f"TimeoutStopSec={pod['terminationGracePeriodSeconds']}\n" in unit
