"""Add the keys of S3 to the template of a Kubernetes pool: a filter from standard input to standard output.

prefect work-pool get-default-base-job-template --type kubernetes | python infra/prefect/kubernetes_pool.py > pool.json

Prefect's own template has no variable for it. With `envFrom`, each Job gets the keys from a Secret and contains none.
"""

import json
import sys

SECRET = "flowvae-s3"


def main() -> int:
    """Exit code 0, or 1 after one line on standard error."""
    try:
        template = json.load(sys.stdin)
        (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
        container["envFrom"] = [{"secretRef": {"name": SECRET}}]
    except (KeyError, TypeError, ValueError):
        command = "prefect work-pool get-default-base-job-template --type kubernetes"
        print(f"kubernetes_pool: expected the output of {command} on standard input", file=sys.stderr)
        return 1
    print(json.dumps(template, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
