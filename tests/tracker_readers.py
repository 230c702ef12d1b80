"""Reads what trackers have: Weights & Biases' files and MLflow's stores."""

import json
import struct
import time
from collections import defaultdict

from wandb.proto.wandb_internal_pb2 import Record

from rlarcade.runs.metrics_file import read_metrics

# Weights & Biases


def files(folder):
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def records(path):
    """What W&B has written: protocol buffers in LevelDB's log format.

    https://github.com/google/leveldb/blob/main/doc/log_format.md, after a header of seven bytes.
    """
    data, at, parts = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts.append(data[at + 7 :][:length])
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield Record.FromString(b"".join(parts))
            parts.clear()


def written(path):
    """All records of a process. W&B's own process writes on for a moment after it.

    The last record says how the process ended; without it the process was killed.
    """
    size, until = -1, 0.0
    while True:
        found = [*records(path)]
        if any(one.WhichOneof("record_type") == "exit" for one in found):
            return found
        now = path.stat().st_size
        if now != size:
            size, until = now, time.monotonic() + 3
        if time.monotonic() > until:
            return found
        time.sleep(0.05)


def rows(folder):
    """The rows of W&B's history, over all processes, as lines of metrics.jsonl."""
    found = []
    for path in files(folder):
        for record in written(path):
            if record.WhichOneof("record_type") == "history":
                row = {}
                for item in record.history.item:
                    name, *inner = item.nested_key or [item.key]
                    value = json.loads(item.value_json)
                    if inner:
                        row.setdefault(name, {})[inner[0]] = value
                    else:
                        row[name] = value
                step = row.pop("global_step")
                own = {name: value for name, value in row.items() if not name.startswith("_")}
                found.append({"step": step, **own})
    return found


# MLflow


def runs(client, experiment="rlarcade"):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id])


def curves(client, run_id):
    names = client.get_run(run_id).data.metrics
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in names
    }


def curves_of(folder):
    found = defaultdict(list)
    for line in read_metrics(folder):
        for name, value in line.items():
            if name != "step":
                found[name].append((line["step"], value))
    return dict(found)
