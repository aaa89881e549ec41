"""Memory in use, on a device or by this process."""

import contextlib
import pathlib
import resource
import sys

import jax


def peak_bytes() -> int:
  """The most memory held so far (on Linux: since `restart_peak`), in bytes: by
  the first device or, where the backend does not count (CPU), this process."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  kilobytes = 1 if sys.platform == "darwin" else 1024
  return kilobytes * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def restart_peak() -> None:
  """Restarts `peak_bytes` of this process (on Linux) at the memory it keeps; a
  device's count cannot be restarted."""
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # see man 5 proc
