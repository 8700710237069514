"""A Slurm of its own: munged, slurmctld and some slurmd on this machine, in a private folder and on private ports, with
claimed CPUs and (where device files can be made) claimed GPUs. Standard library only. Ends what it started and nothing
else; needs no root, but then it has no GPUs to claim."""

import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
GPUS_A_NODE = 2
CPUS_A_NODE = 16
START_LIMIT_S = 30
# A requeued job waits as long as a credential may live.
CREDENTIAL_S = 5  # the least that Slurm takes

CONFIGURATION = """\
ClusterName=tandem
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credential}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,defer_batch=0
KillWait=5
JobRequeue=1
{gres}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs():
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_ports(n):
    """Ports that nobody holds now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """With-block: a running cluster of `n_nodes` nodes n1, n2 …"""

    def __init__(self, n_nodes=2):
        self.n_nodes = n_nodes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-slurm-"))
        self.daemons = []
        self.has_gpus = False

    def __enter__(self):
        try:
            self._configure()
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if len(self.daemons) > 1:
            self.call("scancel", "--user", getpass.getuser(), check=False)
            with contextlib.suppress(AssertionError):
                self.wait_for(lambda: not self.call("squeue", "-h", check=False), 10, "jobs to go")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._end_job_processes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_job_processes(self):
        """Job steps are daemons' children no longer: found by the configuration in their environment."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)

    # --- the daemons
    def _configure(self):
        for name in ("state", *(f"{kind}.n{i + 1}" for kind in ("spool", "tmp") for i in range(self.n_nodes))):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self.has_gpus = self._make_gpu_files()
        gres = f" Gres=gpu:{GPUS_A_NODE}" if self.has_gpus else ""
        ports = free_ports(1 + self.n_nodes)
        host = socket.gethostname()
        nodes = [
            f"NodeName=n{i + 1} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i + 1]} CPUs={CPUS_A_NODE}"
            f" RealMemory=1000{gres} State=UNKNOWN"
            for i in range(self.n_nodes)
        ]
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=f"{host}(127.0.0.1)",
                ports=ports,
                user=getpass.getuser(),
                folder=self.folder,
                credential=CREDENTIAL_S,
                gres="GresTypes=gpu" if self.has_gpus else "",
                nodes="\n".join(nodes),
            )
        )
        if self.has_gpus:
            files = f"{self.folder}/nvidia[0-{GPUS_A_NODE - 1}]"
            (self.folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={files}\n")

    def _make_gpu_files(self):
        """Device files by the names that Slurm takes for GPUs; they are /dev/null by nature."""
        try:
            for i in range(GPUS_A_NODE):
                os.mknod(self.folder / f"nvidia{i}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            return False
        return True

    def environment(self, **more):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TANDEM_"))}
        env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        env["PATH"] += ":/usr/sbin:/sbin"
        env.update({key: str(value) for key, value in more.items()})
        return env

    def _start(self, *command):
        with open(self.folder / f"{command[0]}.{len(self.daemons)}.out", "wb") as out:
            self.daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=self.folder,
                    start_new_session=True,
                )
            )

    def _start_all(self):
        f = self.folder
        self._start(
            "munged", "--foreground", "--force", f"--key-file={f}/munge.key", f"--socket={f}/munge.socket",
            f"--pid-file={f}/munge.pid", f"--log-file={f}/munge.log", f"--seed-file={f}/munge.seed",
        )  # fmt: skip
        self.wait_for(lambda: (f / "munge.socket").exists(), START_LIMIT_S, "munged")
        self._start("slurmctld", "-D", "-c")
        for i in range(self.n_nodes):
            self._start("slurmd", "-D", "-N", f"n{i + 1}")
        self.wait_for(
            lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D", check=False) == str(self.n_nodes),
            START_LIMIT_S,
            "idle nodes",
        )

    def logs(self):
        """The end of each log, for messages."""
        parts = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            parts.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(parts)

    def wait_for(self, condition, limit_s, what):
        deadline = time.monotonic() + limit_s
        while not (value := condition()):
            ended = [d.args[0] for d in self.daemons if d.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"waiting for {what}; ended: {ended}\n{self.logs()}")
            time.sleep(0.05)
        return value

    # --- its users
    def call(self, *command, check=True, **env):
        """What a Slurm command prints."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}: {done.stderr}\n{self.logs()}")
        return done.stdout.strip()

    def submit(self, script, *arguments, cwd, options=(), **env):
        """sbatch; the job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, options), str(script), *map(str, arguments)],
            env=self.environment(**env),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"sbatch {script}: {done.returncode}: {done.stderr}")
        return int(done.stdout)

    def job(self, job_id):
        """scontrol's fields of a job (of an array's first record); {} where it is forgotten."""
        text = self.call("scontrol", "show", "job", "-o", job_id, check=False).splitlines()
        return dict(word.partition("=")[::2] for word in text[0].split() if "=" in word) if text else {}

    def states(self, job_id):
        """The states of a job, or of all tasks of an array."""
        text = self.call("scontrol", "show", "job", "-o", job_id, check=False).splitlines()
        return [
            dict(word.partition("=")[::2] for word in line.split() if "=" in word).get("JobState") for line in text
        ]
