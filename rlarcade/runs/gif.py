"""The beginning of a video as a GIF, for trackers and pages that play no MP4."""

import subprocess
from pathlib import Path

from rlarcade.errors import RecordingError
from rlarcade.text import printable

_SECONDS, _RATE, _WIDTH = 20, 10, 260
_PATIENCE = 60.0  # seconds; ffmpeg takes about one


def gif_of(path: Path) -> bytes:
    """Returns the first 20 seconds of an MP4 video as a GIF of 10 pictures a second.

    Raises:
        RecordingError: the video cannot be read.
    """
    import imageio_ffmpeg

    filters = (
        f"fps={_RATE},scale={_WIDTH}:-2:flags=area,split[a][b];[a]palettegen=64[p];[b][p]paletteuse"
    )
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-t", str(_SECONDS)]
        command += ["-i", str(path), "-filter_complex", filters, "-f", "gif", "-"]
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise RecordingError(f"{path} cannot be shown as a GIF: {error}.") from error
    if done.returncode or not done.stdout:
        why = printable(done.stderr.decode("utf-8", "replace").strip(), 200)
        raise RecordingError(f"{path} cannot be shown as a GIF: {why}.")
    return done.stdout
