"""Writes monitoring/prometheusrule.yml: the rules of deploy/prometheus, for the operator.

python -m deploy.kubernetes.generate
"""

import sys
from pathlib import Path

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
TARGET = Path(__file__).parent / "monitoring" / "prometheusrule.yml"
HEAD = """\
# Generated from deploy/prometheus/rules.yml by: python -m deploy.kubernetes.generate
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stream-rnn
  labels:
    app.kubernetes.io/name: stream-rnn
    release: prometheus # what your Prometheus selects, see its spec.ruleSelector
spec:
"""


def prometheus_rule() -> str:
    """The rules as they stand, comments included, two columns further in."""
    text = RULES.read_text(encoding="utf-8")
    groups = text[text.index("groups:") :]
    return HEAD + "".join(f"  {line}".rstrip() + "\n" for line in groups.splitlines())


def main() -> int:
    """Write the file."""
    TARGET.write_text(prometheus_rule(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
