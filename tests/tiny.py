"""The smallest experiment that has every part of training."""

from mattt_jax import config
from mattt_jax.training import metrics

TIMES = {"tokens_per_second", "seconds_per_step", "compile_seconds",
         "data_wait_share", "peak_bytes"}  # fmt: skip


def experiment(memory: str = "none", **changes) -> config.Experiment:
  """One block with fast weights, 32 tokens, inner loop off in half the steps.

  `changes` are "section__field" = value.
  """
  tree = config.template("associative_recall", memory)
  tree.update({"length": 32, "chunk": 8, "batch_size": 2})
  tree.model.update({"dim": 16, "num_layers": 1, "num_suffix": 1})
  tree.model.update({"num_heads": 2, "mlp_dim": 16, "fast_mlp_dim": 16})
  tree.model.window = 8
  tree.task.update({"num_keys": 8, "num_values": 8, "num_fillers": 8})
  tree.task.update({"num_pairs": 2, "num_queries": 2})
  tree.coordination.inner_off_share = 0.5
  tree.outer.warmup_steps = 2
  tree.train.update({"steps": 14, "log_every": 4, "checkpoint_every": 5})
  tree.train.eval_every = 7
  tree.eval.update({"sequences": 3, "batch_size": 2, "position_buckets": 4})
  tree.update_from_flattened_dict(
    {key.replace("__", "."): value for key, value in changes.items()}
  )
  return config.from_config_dict(tree)


def rows(workdir) -> list[dict]:
  """The metrics of a run, without those that no two runs share."""
  return [
    {k: v for k, v in row.items() if k not in TIMES}
    for row in metrics.read_rows(workdir / metrics.METRICS_FILE)
  ]
