"""Test set-up: eight CPU devices and a compilation cache, before JAX starts."""

import os
import pathlib
from importlib import metadata

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = (
  "--xla_force_host_platform_device_count=8",
  # The programs are small and compiling them is most of the time.
  "--xla_backend_optimization_level=0",
)
# Half of it goes to the newer way of compiling fused operations, which versions
# before 0.11 can do without. XLA ends the process at a flag that it lacks.
if metadata.version("jaxlib").startswith("0.10."):
  _FLAGS += ("--xla_cpu_use_fusion_emitters=false",)
for _flag in _FLAGS:
  if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}"
_CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
