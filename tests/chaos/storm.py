"""Whole processes, as in production, killed and frozen at random while people register."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psutil
import redis

from tests.chaos.disasters import FAULTS, Disaster, drawn
from tests.chaos.ground import GRANIAN, PATIENCE, Ground, Program, Provider, until
from tests.chaos.visitors import Visitors

# Seconds that a worker holds a message, and that one is frozen for: longer.
LEASE: Final = 5
FROZEN: Final = LEASE + 3.0
# Seconds that the broker hears nothing and says nothing.
CUT_OFF: Final = 4.0
# How many times as long as planned a storm may take to answer everybody.
LATE: Final = 2.5
# Seconds of quiet in which all has to come to rest.
QUIET: Final = 60.0


@dataclass(frozen=True)
class Subject:
    """What is put into the storm: its programs, by name, what prepares its database, where people register."""

    programs: dict[str, tuple[str, ...]]
    prepare: tuple[str, ...]
    register: str
    environ: dict[str, str] = field(default_factory=dict)


SERVICE: Final = Subject(
    programs={
        # As in compose.yaml.
        "web": (*GRANIAN, "project.wsgi:application"),
        "worker-1": ("-m", "celery", "--quiet", "-A", "project", "worker", "--concurrency", "2"),
        "worker-2": ("-m", "celery", "--quiet", "-A", "project", "worker", "--concurrency", "2"),
        "beat": ("-m", "celery", "--quiet", "-A", "project", "beat"),
        "relay": ("manage.py", "relay"),
    },
    prepare=("manage.py", "migrate", "--verbosity", "0"),
    register="/api/v1/accounts/register",
)


@dataclass
class Storm:
    """One subject on its ground, in a storm drawn from a seed."""

    subject: Subject
    ground: Ground
    seed: int
    registrations: int
    seconds: float
    on_answer: Callable[[], None] = lambda: None
    programs: dict[str, Program] = field(default_factory=dict)
    kills: int = 0
    _thaws: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def rage(self) -> Visitors:
        """Let it all happen; return the visitors when the last of them is answered and nothing is down any more."""
        self._start()
        visitors = Visitors(
            self.ground.url + self.subject.register,
            self.registrations,
            self.registrations / self.seconds,
            self.seed,
            on_answer=self.on_answer,
        )
        disasters = drawn(self.seed, self.seconds, list(self.programs))
        begin = time.monotonic()
        visitors.start()
        while disasters or not visitors.are_done:
            now = time.monotonic() - begin
            if now > LATE * self.seconds:
                visitors.stop()
                raise TimeoutError(f"after {now:.0f} s only {len(visitors.answered)} registrations were answered")
            self._thaw()
            if disasters and disasters[0].at <= now:
                self._happen(disasters.pop(0))
            time.sleep(0.02)
        self._thaw(all_of_it=True)
        self.ground.provider.faults()
        return visitors

    def _start(self) -> None:
        self.ground.program("prepare", *self.subject.prepare, **self.subject.environ).run()
        for name, command in self.subject.programs.items():
            more = ("--port", str(self.ground.port)) if name == "web" else ()
            pool = {"DATABASE_POOL_SIZE": "8"} if name == "web" else {}
            directory = self.ground.directory
            more += ("--schedule", str(directory / "beat-schedule")) if name == "beat" else ()
            more += ("--hostname", f"{name}@%h") if name.startswith("worker") else ()
            self.programs[name] = self.ground.program(name, *command, *more, **pool, **self.subject.environ)
            self.programs[name].start()
        health = Provider(self.ground.url)
        until(health.is_up, PATIENCE, "the web server to answer")

    def stop(self) -> None:
        """End all programs; none is frozen any more."""
        self._thaw(all_of_it=True)
        for program in self.programs.values():
            program.stop()

    def _happen(self, disaster: Disaster) -> None:
        match disaster.what:
            case "kill":
                self._kill(self.programs[disaster.target])
            case "freeze":
                program = self.programs[disaster.target]
                program.signal(signal.SIGSTOP)
                self._later(FROZEN, lambda: program.signal(signal.SIGCONT))
            case "flush":
                self._later(0 if self._broker_hears() else CUT_OFF, self._flush)
            case "cut_off":
                self.ground.broker.process.send_signal(signal.SIGSTOP)
                self._later(CUT_OFF, lambda: self.ground.broker.process.send_signal(signal.SIGCONT))
            case "restart_database":
                self.ground.postgres.kill()
                self.ground.postgres.start()
                self.kills += 1
            case "faults":
                self.ground.provider.faults(**FAULTS[int(disaster.target)], seed=self.seed)

    def _kill(self, program: Program) -> None:
        """Kill a program and start it anew, as what supervises it would."""
        program.kill()
        program.start()
        self.kills += 1

    def _broker_hears(self) -> bool:
        return psutil.Process(self.ground.broker.process.pid).status() != psutil.STATUS_STOPPED

    def _flush(self) -> None:
        with redis.Redis.from_url(self.ground.broker.redis_url, socket_timeout=PATIENCE) as client:
            client.flushall()

    def _later(self, seconds: float, thaw: Callable[[], None]) -> None:
        self._thaws.append((time.monotonic() + seconds, thaw))

    def _thaw(self, *, all_of_it: bool = False) -> None:
        """Do what was put off and is due now; in that order, so that a broker hears before it is flushed."""
        now = time.monotonic()
        for entry in [entry for entry in self._thaws if all_of_it or entry[0] <= now]:
            self._thaws.remove(entry)
            entry[1]()
