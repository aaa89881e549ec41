#!/usr/bin/env python3
"""Renders launch/jobset.yaml for a slice of TPUs on GKE.

    python launch/render_jobset.py --name=sweep --topology=v5e:4x4 \\
      --image=IMAGE --bucket=BUCKET -- mattt sweep --config=recall \\
      --out=/mnt/mattt/recall --together | kubectl apply -f -

launch/xpk.sh calls it. Secrets are named, not given: --secret is a Kubernetes
Secret whose keys become environment variables.
"""

import argparse
import json
import pathlib
import re
import string
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mattt_jax.planning import topology  # noqa: E402

# What GKE calls the slices (cloud.google.com/kubernetes-engine/docs/concepts/
# plan-tpus); machine types with four chips a host.
ACCELERATORS = {
  "v4": "tpu-v4-podslice",
  "v5e": "tpu-v5-lite-podslice",
  "v5p": "tpu-v5p-slice",
  "v6e": "tpu-v6e-slice",
  "tpu7x": "tpu7x",
}
CHIPS_A_HOST = 4
RESTART_CODES = [42, *range(127, 256)]
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def render(
  *,
  name: str,
  slice_: topology.Topology,
  image: str,
  command: list[str],
  namespace: str = "default",
  bucket: str = "",
  mount: str = "/mnt/mattt",
  secret: str = "",
  queue: str = "",
  service_account: str = "default",
  max_restarts: int = 50,
  spot: bool = False,
) -> str:
  """The manifest, as YAML.

  Raises:
    ValueError: something that Kubernetes or GKE would refuse.
  """
  chip = slice_.name.rpartition("*")[-1].partition(":")[0]
  one = slice_.num_chips // slice_.slices
  for field, value, needed in (
    ("name", name, True),
    ("namespace", namespace, True),
    ("service-account", service_account, True),
    ("secret", secret, False),
    ("queue", queue, False),
  ):
    if (value or needed) and not _NAME.fullmatch(value):
      raise ValueError(
        f"--{field}={value!r} must be at most 40 small letters, digits and "
        "dashes, a letter first"
      )
  if chip not in ACCELERATORS:
    raise ValueError(f"--topology={slice_.name}: GKE has no such TPU")
  if one % CHIPS_A_HOST:
    raise ValueError(
      f"--topology={slice_.name}: {one} chips are no whole hosts of "
      f"{CHIPS_A_HOST}"
    )
  if not image:
    raise ValueError("--image is missing: build it from launch/Dockerfile")
  if not command:
    raise ValueError("there is no command: put it behind --")
  if not mount.startswith("/"):
    raise ValueError(f"--mount={mount!r} must start with /")
  labels = {"app": "mattt"}
  if queue:
    labels["kueue.x-k8s.io/queue-name"] = queue
  selector = {
    "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[chip],
    "cloud.google.com/gke-tpu-topology": slice_.shape,
  }
  tolerations: list[dict[str, str]] = [
    {"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}
  ]
  if spot:
    selector["cloud.google.com/gke-spot"] = "true"
    tolerations.append(
      {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
      }
    )
  csi = {
    "driver": "gcsfuse.csi.storage.gke.io",
    "volumeAttributes": {"bucketName": bucket, "mountOptions": "implicit-dirs"},
  }
  values: dict[str, Any] = {
    "name": name,
    "namespace": namespace,
    "labels": labels,
    "max_restarts": max_restarts,
    "slices": slice_.slices,
    "hosts": one // CHIPS_A_HOST,
    "restart_codes": RESTART_CODES,
    "pod_annotations": {"gke-gcsfuse/volumes": "true"} if bucket else {},
    "service_account": service_account,
    "node_selector": selector,
    "tolerations": tolerations,
    "image": image,
    "command": command,
    "env_from": [{"secretRef": {"name": secret}}] if secret else [],
    "chips": CHIPS_A_HOST,
    "mounts": [{"name": "runs", "mountPath": mount}] if bucket else [],
    "volumes": [{"name": "runs", "csi": csi}] if bucket else [],
  }
  template = (ROOT / "launch" / "jobset.yaml").read_text()
  return string.Template(template).substitute(
    {key: json.dumps(value) for key, value in values.items()}
  )


def main() -> None:
  """Parses the command line and prints the manifest."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name, default in (
    ("name", "mattt"),
    ("topology", "v5e:4x4"),
    ("image", ""),
    ("namespace", "default"),
    ("bucket", ""),
    ("mount", "/mnt/mattt"),
    ("secret", ""),
    ("queue", ""),
    ("service-account", "default"),
  ):
    parser.add_argument(f"--{name}", default=default)
  parser.add_argument("--max-restarts", type=int, default=50)
  parser.add_argument("--spot", action="store_true")
  parser.add_argument("command", nargs="*")
  args = vars(parser.parse_args())
  try:
    args["slice_"] = topology.parse(args.pop("topology"))
    print(render(**args), end="")
  except ValueError as error:
    parser.error(str(error))


if __name__ == "__main__":
  main()
