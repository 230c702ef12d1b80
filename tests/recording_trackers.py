"""Trackers that write down what they are told: in memory, or in a file that outlives a kill."""

import json
import threading


class RecordingTracker:
    """A tracker of one's own. It keeps every call, in order."""

    def __init__(self, name="recorder", *, ids=("first",), fails_at=None, error=None):
        self.name, self._ids, self._fails_at = name, iter(ids), fails_at
        self._error = error or RuntimeError("no network")
        self.calls, self.opened, self.threads = [], [], set()

    def _told(self, what, *arguments):
        self.threads.add(threading.current_thread())
        self.calls.append((what, *arguments))
        if what == self._fails_at:
            raise self._error

    def open(self, run):
        self.opened.append(run)
        self._told("open", run.id)
        return run.id or next(self._ids)

    def hyper_parameters(self, settings):
        self._told("hyper_parameters", settings)

    def scalars(self, step, figures):
        self._told("scalars", step, figures)

    def histogram(self, step, name, values):
        self._told("histogram", step, name, values)

    def text(self, step, name, text):
        self._told("text", step, name, text)

    def video(self, step, name, path):
        self._told("video", step, name, path)

    def artefact(self, name, path):
        self._told("artefact", name, path)

    def flush(self):
        self._told("flush")

    def close(self):
        self._told("close")

    def named(self, what):
        return [call[1:] for call in self.calls if call[0] == what]

    @property
    def lines(self):
        """What it was told of metrics.jsonl, as lines of it."""
        return [{"step": step, **figures} for step, figures in self.named("scalars")]


class FileTracker(RecordingTracker):
    """Appends every line of figures to a file at once, so that a kill loses none."""

    def __init__(self, path):
        super().__init__("file", ids=["file"])
        self._path = path

    def scalars(self, step, figures):
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
