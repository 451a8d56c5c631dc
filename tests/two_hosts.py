"""Two hosts on this machine: network namespaces with names of their own, and a link."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpi_ranks import Launch, Library, started

ADDRESSES = ("10.77.0.1", "10.77.0.2")

# In place of ssh: options, then a host, then a command.
_AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
case "$1" in %s) host=0;; *) host=1;; esac
shift
exec ip netns exec "%s$host" unshare -u sh -c "hostname host$host; $*"
"""


@dataclass(frozen=True)
class Hosts:
    """name: of the namespaces, with 0 or 1 behind it; so are the ends of the link. agent: a file
    that starts a command on a host."""

    name: str
    agent: Path

    def command(self, library: Library, on_each: int, *arguments: str | Path) -> list[str]:
        """What starts `python -m arguments` as so many ranks on each host."""
        if library.name == "openmpi":
            slots = ",".join(f"{address}:{on_each}" for address in ADDRESSES)
            layout = ["--oversubscribe", "--map-by", f"ppr:{on_each}:node", "--host", slots]
            exported = ["-x", "PYTHONPATH", "-x", "PYALEXNET_THREADS"]
            link = ["--mca", "btl", "sm,tcp,self", "--mca", "btl_tcp_if_include", "10.77.0.0/24"]
            how = ["--prtemca", "plm_ssh_agent", str(self.agent), *layout, *exported, *link]
        else:
            slots = ",".join(f"{address}:{on_each}" for address in ADDRESSES)
            how = ["-launcher", "ssh", "-launcher-exec", str(self.agent), "-hosts", slots]
            how += ["-n", str(2 * on_each)]
        inner = [library.mpiexec, *how, library.python, "-m", *map(str, arguments)]
        return [str(self.agent), ADDRESSES[0], *inner]

    def sent(self) -> int:
        """Bytes that host 0 has sent over the link."""
        counter = f"/sys/class/net/{self.name}0/statistics/tx_bytes"
        return int(_run("ip", "netns", "exec", f"{self.name}0", "cat", counter))

    def link(self, state: str) -> None:
        """Take the link "down", or "up"."""
        _run("ip", "netns", "exec", f"{self.name}0", "ip", "link", "set", f"{self.name}0", state)

    @contextmanager
    def launched(
        self, library: Library, on_each: int, *arguments: str | Path, cwd: Path
    ) -> Iterator[Launch]:
        """As `mpi_ranks.launched`, on both hosts."""
        # MPICH would find the other namespace's shared memory, and send nothing over the link.
        apart = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self"}
        with started(library, self.command(library, on_each, *arguments), cwd, **apart) as launch:
            yield launch


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Make them, and undo them.

    Raises:
        OSError, subprocess.CalledProcessError: this process may not.
    """
    name, agent = f"pya{os.getpid() % 10**6}x", folder / "agent"
    agent.write_text(_AGENT % (ADDRESSES[0], name))
    agent.chmod(0o755)
    ends = [f"{name}{host}" for host in (0, 1)]
    try:
        for end in ends:
            _run("ip", "netns", "add", end)
        _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, address in zip(ends, ADDRESSES, strict=True):
            _run("ip", "link", "set", end, "netns", end)
            inside = ("ip", "netns", "exec", end, "ip")
            _run(*inside, "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                _run(*inside, "link", "set", device, "up")
        _run(str(agent), ADDRESSES[0], "true")
        yield Hosts(name, agent)
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "del", end], capture_output=True, check=False)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
