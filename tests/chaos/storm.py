"""Whole processes, as in production, killed and frozen at random while people register."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.chaos.disasters import FAULTS, Disaster, drawn
from tests.chaos.ground import GRANIAN, PATIENCE, Ground, Program, Provider, until
from tests.chaos.visitors import Visitors

# Seconds that a worker holds a message, and that one is frozen for: longer.
LEASE: Final = 5
FROZEN: Final = LEASE + 3.0
# Seconds that the broker hears nothing and says nothing.
CUT_OFF: Final = 4.0
# Seconds that the disk is full, or the clock wrong; and by how many that is.
FULL: Final = 4.0
WRONG: Final = 5.0
JUMPS: Final = (-86_400, -3600, -60, 60, 3600, 86_400)
# How much faster people come than would do, since they cannot while the web server or the database is down.
HASTE: Final = 1.15
# How many times as long as planned a storm may take to answer everybody.
LATE: Final = 4.0
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
        "web": (*GRANIAN, "--interface", "asginl", "project.asgi:application"),
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
    messages: int = 0
    programs: dict[str, Program] = field(default_factory=dict)
    kills: int = 0
    _thaws: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def rage(self) -> Visitors:
        """Let it all happen; return the visitors when the last of them is answered and nothing is down any more."""
        self._start()
        visitors = Visitors(
            self.ground.url + self.subject.register,
            self.registrations,
            HASTE * self.registrations / self.seconds,
            self.seed,
            on_answer=self.on_answer,
        )
        disasters = drawn(self.seed, self.seconds, list(self.programs), self._rare())
        begin = time.monotonic()
        visitors.start()
        while disasters or not visitors.are_done or self._is_filling():
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

    def _rare(self) -> list[str]:
        """Return what can happen on this ground alone."""
        return ["fill_disk"] * bool(self.ground.disk) + ["jump_clock"] * bool(self.ground.clock)

    def _is_filling(self) -> bool:
        """Tell whether mails are still enqueued, besides those of the visitors."""
        bulk = self.programs.get("bulk")
        return bulk is not None and bulk.process is not None and bulk.process.poll() != 0

    def _start(self) -> None:
        self.ground.program("prepare", *self.subject.prepare, **self.subject.environ).run()
        environ = {**self.subject.environ, **(self.ground.clock.environ if self.ground.clock else {})}
        programs = dict(self.subject.programs)
        if self.messages:
            # Slower than would do, so that it has time to be killed.
            programs["bulk"] = ("-m", "tests.chaos.bulk", str(self.messages), str(0.7 * self.seconds))
        for name, command in programs.items():
            more = ("--port", str(self.ground.port)) if name == "web" else ()
            pool = {"DATABASE_POOL_SIZE": "8"} if name == "web" else {}
            directory = self.ground.directory
            more += ("--schedule", str(directory / "beat-schedule")) if name == "beat" else ()
            more += ("--hostname", f"{name}@%h") if name.startswith("worker") else ()
            self.programs[name] = self.ground.program(name, *command, *more, **pool, **environ)
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
            case "kill_child":
                self._kill_child(self.programs[disaster.target])
            case "freeze":
                program = self.programs[disaster.target]
                program.signal(signal.SIGSTOP)
                self._later(FROZEN, lambda: program.signal(signal.SIGCONT))
            case "flush":
                self._flush()
            case "cut_off":
                self.ground.broker.freeze()
                self._later(CUT_OFF, self.ground.broker.thaw)
            case "restart_database":
                self._restart_database()
            case "fill_disk" if self.ground.disk:
                self.ground.disk.fill()
                self._later(FULL, self._restart_database)  # by then it may have given up
            case "jump_clock" if self.ground.clock:
                clock = self.ground.clock
                clock.jump(self._chance.choice(JUMPS))
                self._later(WRONG, lambda: clock.jump(0))
            case "faults":
                self.ground.provider.faults(**FAULTS[int(disaster.target)], seed=self.seed)

    def _kill(self, program: Program) -> None:
        """Kill a program and start it anew, as what supervises it would."""
        program.kill()
        program.start()
        self.kills += 1

    def _kill_child(self, program: Program) -> None:
        """Kill one process of a program, which then starts another; of one that is a single process, that."""
        children = psutil.Process(program.process.pid).children() if program.process else []
        if not children:
            self._kill(program)
            return
        self._chance.choice(children).kill()
        self.kills += 1

    def _flush(self) -> None:
        """Empty the broker, once it hears that."""
        if self.ground.broker.is_frozen:
            self._later(CUT_OFF / 2, self._flush)
        else:
            self.ground.broker.flush()

    def _restart_database(self) -> None:
        if self.ground.disk:
            self.ground.disk.free()  # without room it would not start
        self.ground.postgres.kill()
        self.ground.postgres.start()
        self.kills += 1

    def _later(self, seconds: float, thaw: Callable[[], None]) -> None:
        self._thaws.append((time.monotonic() + seconds, thaw))

    def _thaw(self, *, all_of_it: bool = False) -> None:
        """Do what was put off and is due now; in that order, so that a broker hears before it is flushed."""
        now = time.monotonic()
        for entry in [entry for entry in self._thaws if all_of_it or entry[0] <= now]:
            self._thaws.remove(entry)
            entry[1]()
