"""Names of the files that a log and its copies have in common. The layout of tiles is in `tiles.py`."""

CHECKPOINT_FILE = "checkpoint"
WITNESSED_FILE = "checkpoint.witnessed"
CHECKPOINTS_DIR = "checkpoints"  # of a copy: one immutable note a size
HISTORY_FILE = "checkpoints.jsonl"  # of the log itself
KEYS_FILE = "log.vkey"
