"""``python -m amp_pipeline_tests.as_amplitude FOLDER CERTIFICATE KEY BUNDLE COMMAND…``: COMMAND takes us for Amplitude.

To be run where only we see the network and what is mounted: ``unshare --map-root-user --net --mount``. There the names
of Amplitude's servers are this machine, ``amp-pipeline serve export`` answers at their port for https, CERTIFICATE
stands in BUNDLE among those that COMMAND trusts, and COMMAND, a connector as it comes from its makers, finds nobody
else. When it ends all is as it was.
"""

import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

from amp_pipeline_tests.export_server import running

NAMES = ("amplitude.com", "analytics.eu.amplitude.com")
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # of linux/sockios.h and linux/if.h


def main(folder: Path, certificate: Path, key: Path, bundle: Path, command: list[str]) -> int:
    """Serve the organizations below ``folder``, run ``command``, return its exit status."""
    _start_loopback()
    _put_over(Path("/etc/hosts"), folder / "hosts", f"127.0.0.1 localhost {' '.join(NAMES)}\n")
    _put_over(bundle, folder / "bundle.pem", bundle.read_text() + certificate.read_text())
    with running(folder, "--port", "443", "--certificate", str(certificate), "--key", str(key)):
        return subprocess.run(command, check=False).returncode


def _put_over(path: Path, kept: Path, text: str) -> None:
    """Let ``path`` read ``text`` for whoever is in here."""
    kept.write_text(text)
    subprocess.run(["mount", "--bind", str(kept), str(path)], check=True)


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, asked))
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:5]), command=sys.argv[5:]))
