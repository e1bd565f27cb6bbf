"""A SLURM of one node on the loopback address: munged, slurmctld and slurmd with everything in a folder of
their own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.commands import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=5
KillWait=5
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed of it."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@dataclass(frozen=True)
class Slurm:
    """A running SLURM."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment in which SLURM's commands find it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str, cwd: Path | None = None, **env: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(
            words, cwd=cwd, env={**self.env, **env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job: ``JobState``, ``Restarts`` and so on."""
        words = self.command("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "".join(
            f"\n{log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.folder.glob("*.log"))
        )


@contextmanager
def one_node_slurm(folder: Path, cpus: int) -> Iterator[Slurm]:
    """While entered, a SLURM runs; its daemons and all that is left of its jobs are ended afterwards.

    Args:
        folder: an empty folder with a short path, for the sake of the socket in it.
        cpus: what the node says it has.
    """
    ports = [free_port() for _ in range(2)]
    user = getpass.getuser()
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=socket.gethostname(),
            controller=ports[0],
            daemon=ports[1],
            user=user,
            folder=folder,
            cpus=cpus,
        )
    )
    for name in ("state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    slurm, env = Slurm(folder), {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    places = {
        "key": "munge.key",
        "socket": "munge.socket",
        "pid": "munge.pid",
        "seed": "munge.seed",
        "log": "munge.log",
    }
    flags = [f"--{option}-file={folder / name}" for option, name in places.items() if option != "socket"]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder / 'munge.socket'}", *flags],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", socket.gethostname()],
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / f"{command[0]}-out.log").open("w") as out:
                daemons.append(
                    subprocess.Popen(command, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
                )
            time.sleep(1.0)
        _until_idle(slurm)
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _until_idle(slurm: Slurm) -> None:
    deadline = time.monotonic() + 60
    state = ""
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=slurm.env, capture_output=True, text=True, check=False
        )
        state = done.stdout.strip()
        if state == "idle":
            return
        time.sleep(0.5)
    raise AssertionError(f"SLURM does not come up: {state}{slurm.logs()}")
