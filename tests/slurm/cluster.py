"""A Slurm cluster of one node on this machine, from Debian's slurm-wlm and munge, in one folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

# Device files that every machine has stand in for cards: Slurm counts and hands them out.
DEVICES = ("null", "zero", "full", "random")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch")
CONF = """
ClusterName=husai
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MinJobAge=600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:b200:{gpus}
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
"""Where a job step looks: the executor takes every SLURM_ variable out of a job's environment."""


class Cluster:
    """Start with :meth:`start`; ``environment`` is what a client needs; :meth:`stop` ends all of
    it."""

    def __init__(self, folder: Path, cpus: int = 4, memory: int = 12_000):
        self.folder, self.cpus, self.memory = folder, cpus, memory
        self.processes: list[subprocess.Popen] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration, start munged, slurmctld and slurmd, wait until the node idles.

        Raises
        ------
        RuntimeError
            When a program is missing or the node does not come up; the end of its log is shown.
        """
        missing = [name for name in PROGRAMS if not self._program(name)]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} not found; install slurm-wlm and munge")
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(bytes(range(256)) * 4)
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        port, node_port = _free_port(), _free_port()
        values = {
            "cpus": self.cpus,
            "gpus": len(DEVICES),
            "memory": self.memory,
            "port": port,
            "node_port": node_port,
        }
        text = CONF.format(folder=self.folder, host=host, **values)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            "".join(f"Name=gpu Type=b200 File=/dev/{name}\n" for name in DEVICES)
        )
        munge = ["--foreground", "--force", "--num-threads=2", f"--key-file={key}"]
        munge += [f"--{part}={self.folder}/munge.{part.split('-')[0]}" for part in ("socket",)]
        munge += [f"--{part}-file={self.folder}/munge.{part}" for part in ("log", "pid", "seed")]
        if SYSTEM_CONF.exists() or SYSTEM_CONF.is_symlink():
            raise RuntimeError(f"{SYSTEM_CONF} is there: this machine has a Slurm of its own")
        SYSTEM_CONF.parent.mkdir(exist_ok=True)
        SYSTEM_CONF.symlink_to(self.folder / "slurm.conf")
        self._run("munged", *munge)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        conf = self.environment["SLURM_CONF"]
        self._run("slurmctld", "-D", "-f", conf)
        self._run("slurmd", "-D", "-f", conf, "-N", host)
        self._wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "slurmd")

    def ask(self, program: str, *arguments: str) -> str:
        """Standard output of a Slurm command."""
        command = [self._program(program), *arguments]
        found = subprocess.run(command, env=self._env(), capture_output=True, text=True)
        return found.stdout

    def stop(self) -> None:
        """Cancel what runs, end the daemons, and take the link to the configuration away."""
        self.ask("scancel", "--user=root")
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink().is_relative_to(self.folder):
            SYSTEM_CONF.unlink()

    def _env(self) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment}

    def _program(self, name: str) -> str | None:
        return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")

    def _run(self, name: str, *arguments: str) -> None:
        log = (self.folder / f"{name}.out").open("w")
        command = [self._program(name), *arguments]
        process = subprocess.Popen(command, env=self._env(), stdout=log, stderr=log)
        self.processes.append(process)

    def _wait(self, ready, name: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ready():
                return
            time.sleep(0.2)
        logs = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
        ends = "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in logs)
        raise RuntimeError(f"{name} did not come up within {seconds:.0f} s\n{ends}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
