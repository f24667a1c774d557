package main

import (
	"context"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	netnsPeriod = 5 * time.Second
	endPatience = 3 * time.Second
	healthy     = 10 * time.Second // a worker that ran so long and crashes is started at once, and the next one from the first delay again: that costs little
	wellKeyed   = time.Minute      // one that needs a key after so long asks from the first delay again
	settleTime  = 300 * time.Millisecond
	attendFirst = 2 * time.Second // a node that is new has registered by then
	attendLast  = time.Hour
)

var (
	crashDelays = delays{first: 100 * time.Millisecond, longest: 30 * time.Second}
	keyDelays   = delays{first: 2 * time.Second, longest: 5 * time.Minute}
	soonDelays  = delays{first: 2 * time.Second, longest: 8 * time.Second} // while the control plane is away, or we are not yet to ask it
)

type supervisor struct {
	spec
	log    *logger
	ask    func(task string, options ...string) (string, error)
	worker *worker
	syncs  chan int64       // when a worker's word was heard; at most one is pending
	wakes  chan struct{}    // somebody has woken us: Python is asked, whatever it has configured, and at once if it failed before
	moved  chan struct{}    // Python wants the node to be another one
	over   chan struct{}    // Python wants it to be none any more
	up     chan struct{}    // the node is up: its keys may be new
	narrow chan *os.Process // workers whose sockets have small buffers; at most one is pending

	life    context.Context // what Python is asked within
	endLife context.CancelFunc
	asking  sync.WaitGroup

	crash backoff
	key   backoff
}

func newSupervisor(s spec) *supervisor {
	log := &logger{path: s.logFile}
	v := &supervisor{spec: s, log: log, syncs: make(chan int64, 1), wakes: make(chan struct{}, 1), moved: make(chan struct{}, 1), over: make(chan struct{}, 1), up: make(chan struct{}, 1), narrow: make(chan *os.Process, 1)}
	v.crash, v.key = backoff{delays: crashDelays}, backoff{delays: keyDelays}
	v.life, v.endLife = context.WithCancel(context.Background())
	v.ask = v.askPython
	return v
}

// run looks after the worker until there is nothing left to do, and returns the exit status.
func (v *supervisor) run(line string) int {
	defer v.stopAsking()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ticks := time.NewTicker(netnsPeriod)
	defer ticks.Stop()
	go v.synchronise()
	go v.widen()
	if v.attended {
		go v.attend()
	}
	grouped := make(chan struct{})
	go func() {
		v.moveToGroups(os.Getpid())
		close(grouped)
	}()
	started := make(chan string, 1) // start lines of workers that are to begin
	started <- line
	for {
		select {
		case line := <-started:
			v.start(line, started)
		case status := <-v.worker.ended():
			if done, status := v.next(status, started); done {
				return status
			}
		case word := <-v.worker.words():
			v.hear(word)
		case <-grouped: // a worker that is started from now on is there at once
			grouped = nil
			if v.worker != nil {
				v.moveToGroups(v.worker.process.Pid)
			}
		case <-ticks.C:
			if !v.netnsIsThere() {
				v.log.printf("the pod's network namespace is gone")
				return v.reap()
			}
		case <-v.moved:
			v.worker.end(endPatience)
			return v.become("run")
		case <-v.over:
			return exitGone
		case s := <-signals:
			if s == syscall.SIGHUP {
				select {
				case v.wakes <- struct{}{}:
				default:
				}
				v.synchroniseSoon()
				continue
			}
			v.worker.end(endPatience)
			return exitDone
		}
	}
}

// start begins a worker; one that cannot be started is tried again as if it had crashed.
func (v *supervisor) start(line string, started chan<- string) {
	w, err := startWorker(v.uid, v.underlay, v.spec.worker, line, v.log)
	if err != nil {
		v.log.printf("the worker cannot be started: %v", err)
		v.later(v.crash.next(), started, func() (string, error) { return line, nil })
		return
	}
	v.worker = w
}

// next decides what follows a worker's end: whether that is our own end, and with which status.
func (v *supervisor) next(status int, started chan<- string) (done bool, exit int) {
	well := v.worker.age() >= healthy
	if well {
		v.crash.reset()
	}
	if v.worker.age() >= wellKeyed {
		v.key.reset()
	}
	v.worker = nil
	switch status {
	case workerDone:
		return true, exitDone
	case workerTUNGone:
		time.Sleep(v.crash.next())
		return true, v.become("run")
	case workerNeedsKey:
		v.later(v.key.next(), started, func() (string, error) { return v.ask("rekey") })
	case workerForgotten:
		v.later(v.key.next(), started, func() (string, error) { return v.ask("rekey", "--deleted") })
	default:
		var delay time.Duration // none after one that has been well: connections wait for the next one
		if !well {
			delay = v.crash.next()
		}
		v.log.printf("the worker ended with status %d; again in %v", status, delay)
		v.later(delay, started, func() (string, error) { return "start\n", nil })
	}
	return false, 0
}

// later gives a start line to the loop after a delay, and does not give up before it has one. A control plane that was away is asked
// soon: a node is back on the tailnet within seconds of it. What a person has to mend is looked at ever less often. A node that is to be
// none any more gets no line, and we end.
func (v *supervisor) later(delay time.Duration, started chan<- string, line func() (string, error)) {
	mended, soon := backoff{delays: keyDelays}, backoff{delays: soonDelays}
	go func() {
		for {
			time.Sleep(delay)
			text, err := line()
			if err == nil {
				started <- text
				return
			}
			switch v.log.printf("no start line: %v", err); exitStatus(err) {
			case exitGone:
				v.over <- struct{}{}
				return
			case askAgain:
				delay = jittered(soon.next())
			default:
				delay = jittered(mended.next())
			}
		}
	}()
}

// jittered cuts a delay by up to a quarter, so that nodes that failed together do not come together.
func jittered(delay time.Duration) time.Duration { return delay - rand.N(delay/4) }

func (v *supervisor) hear(word string) {
	switch word {
	case "sync":
		v.synchroniseSoon()
	case "sockets":
		select {
		case v.narrow <- v.worker.process:
		default:
		}
	case "running":
		v.key.reset()
		v.note("was-running")
		select {
		case v.up <- struct{}{}:
		default:
		}
	case "online":
		v.note("was-online")
	}
}

// note leaves word for Python that something has happened.
func (v *supervisor) note(what string) {
	if err := os.WriteFile(filepath.Join(v.notes, what), nil, 0o600); err != nil {
		v.log.printf("%v", err)
	}
}

func (v *supervisor) synchroniseSoon() {
	select {
	case v.syncs <- monotonic():
	default: // one is pending already
	}
}

// synchronise lets Python configure what the worker's words were about: one at a time, at most one a second, again when it failed.
// It lets a second pass first: the words of a node that is new are for the ADD that waits for it, and often several come together.
func (v *supervisor) synchronise() {
	failures := backoff{delays: delays{first: time.Second, longest: 30 * time.Second}}
	for heard := range v.syncs {
		for woken := false; ; {
			time.Sleep(time.Second)
			select {
			case <-v.wakes:
				woken = true
			default:
			}
			if !woken && v.configuredSince(heard) {
				break
			}
			_, err := v.ask("sync")
			if exitStatus(err) == askMoved {
				v.beginAnew()
				return
			}
			if err == nil {
				failures.reset()
				break
			}
			v.log.printf("%v", err)
			select {
			case <-time.After(failures.next()):
			case <-v.wakes:
				woken = true
			}
		}
	}
}

// attend lets Python look after an identity that the cluster keeps: when the node is up, and whenever it wants to be asked again.
func (v *supervisor) attend() {
	failures := backoff{delays: keyDelays}
	for pause := attendFirst; pause > 0; {
		select {
		case <-time.After(jittered(pause)):
		case <-v.up:
		case <-v.life.Done():
			return
		}
		said, err := v.ask("attend")
		switch {
		case exitStatus(err) == askMoved:
			v.beginAnew()
			return
		case err != nil:
			v.log.printf("%v", err)
			pause = failures.next()
		default:
			failures.reset()
			seconds, _ := strconv.Atoi(strings.TrimSpace(said))
			pause = min(time.Duration(seconds)*time.Second, attendLast)
		}
	}
}

// beginAnew has the loop end the worker and begin with what the node is to be by now.
func (v *supervisor) beginAnew() {
	select {
	case v.moved <- struct{}{}:
	default: // somebody else has said so
	}
}

// widen gives the sockets of workers that asked for it larger buffers. It lets a moment pass first: a worker that binds its port anew
// closes one socket and opens another, and would find the port taken by our copy of the first one.
func (v *supervisor) widen() {
	told := false
	for process := range v.narrow {
		time.Sleep(settleTime)
		if err := widenSockets(process); err != nil && !told {
			v.log.printf("the worker's sockets keep small buffers, and fast traffic is slower: %v", err)
			told = true
		}
	}
}

// configuredSince reports whether Python has asked the node, after that moment, what it should be, and configured it.
func (v *supervisor) configuredSince(moment int64) bool {
	text, err := os.ReadFile(filepath.Join(v.notes, "configured"))
	if err != nil {
		return false
	}
	asked, _, _ := strings.Cut(string(text), " ")
	when, err := strconv.ParseInt(asked, 10, 64)
	return err == nil && when > moment
}

// monotonic is the time since some moment of the past, in nanoseconds, as Python's time.monotonic_ns() has it.
func monotonic() int64 {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// moveToGroups moves a process to our control groups. The kernel takes a while over the first move of all (an RCU grace period, 10 ms),
// which the start of a worker need not wait for. What cannot be done is left: the process stays in the runtime's group.
func (v *supervisor) moveToGroups(pid int) {
	for _, group := range v.groups {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			v.log.printf("%v", err)
		}
	}
}

// netnsIsThere reports whether the pod's namespace is still at its path. Its inode cannot be another namespace's by now: the TUN
// descriptor keeps it alive as long as we live.
func (v *supervisor) netnsIsThere() bool {
	var there, own unix.Stat_t
	if unix.Stat("/proc/self/ns/net", &own) != nil {
		return true
	}
	err := unix.Stat(v.netns, &there)
	if err == unix.EINTR || err == unix.ENOMEM {
		return true
	}
	return err == nil && there.Ino == v.netnsInode && there.Dev == own.Dev
}

// reap ends a node whose pod is gone, and becomes the command that removes what is left.
func (v *supervisor) reap() int {
	if v.ephemeral && v.worker != nil {
		if _, err := v.ask("logout"); err != nil {
			v.log.printf("logout: %v", err)
		}
	}
	v.worker.end(endPatience)
	return v.become("reap")
}

// become turns this process into a command of the artefact. The descriptors that keep the namespace alive close on exec.
func (v *supervisor) become(task string) int {
	v.stopAsking()
	signal.Ignore(syscall.SIGHUP) // whoever wakes us must not end what we become
	command := v.command(task)
	err := syscall.Exec(command[0], command, environment)
	v.log.printf("%s: %v", task, err)
	return 1
}

// delays are how long to wait between tries.
type delays struct{ first, longest time.Duration }

// backoff doubles the delay with every try; the first try after a reset has the first one.
type backoff struct {
	delays
	current time.Duration
}

func (b *backoff) next() time.Duration {
	delay := max(b.current, b.first)
	b.current = min(2*delay, b.longest)
	return delay
}

func (b *backoff) reset() { b.current = 0 }
