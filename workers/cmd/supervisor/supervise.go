package main

import (
	"context"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tailscale-cni/workers/internal/exits"
)

const (
	netnsPeriod = 5 * time.Second
	endPatience = 3 * time.Second
	healthy     = 10 * time.Second // a worker that ran so long and crashes is started at once, and the next one from the first delay again: that costs little
	wellKeyed   = time.Minute      // one that needs a key after so long asks from the first delay again
)

var (
	crashDelays = delays{first: 100 * time.Millisecond, longest: 30 * time.Second}
	keyDelays   = delays{first: 2 * time.Second, longest: 5 * time.Minute}
	soonDelays  = delays{first: 2 * time.Second, longest: 8 * time.Second} // while the control plane is away, or we may not ask it yet
)

// supervisor runs one worker. Only the goroutine of run touches the fields without a comment; the others are channels to and from the
// goroutines that run Python's tasks, so that no task, and no delay, keeps run from an event.
type supervisor struct {
	spec
	log    *logger
	ask    func(task string, options ...string) (string, error)
	worker *worker
	quit   chan os.Signal // SIGTERM, SIGINT
	hangup chan os.Signal // SIGHUP: the node should be another one by now, says Python

	plan step             // what happens when due fires
	due  <-chan time.Time // nil: nothing is planned

	reaping bool // the pod is gone, and the node is being logged out

	crash, key   backoff // between starts of the worker
	mended, soon backoff // between questions for a start line, since the worker ended

	answers chan answer      // of tasks whose outcome is run's business
	syncs   chan int64       // to synchronise: when a worker said sync (CLOCK_MONOTONIC); at most one is pending
	wakes   chan struct{}    // to synchronise: SIGHUP came
	up      chan struct{}    // to attend: the node is up, and its keys may be new
	narrow  chan *os.Process // to widen: a worker whose sockets have small buffers

	life    context.Context // ends with the supervisor, and with it the tasks
	endLife context.CancelFunc
	asking  sync.WaitGroup
}

// step is what the supervisor does after a delay: it starts a worker with a line, or asks for that line, or becomes another command.
type step struct {
	line    string   // start a worker with this line
	ask     []string // or, if that is empty, run this task, which prints the line
	becomes string   // or become this command
}

// answer is how a task ended.
type answer struct {
	task string
	text string
	err  error
}

func newSupervisor(s spec) *supervisor {
	v := &supervisor{
		spec:    s,
		log:     &logger{path: s.logFile},
		quit:    make(chan os.Signal, 1),
		hangup:  make(chan os.Signal, 1),
		crash:   backoff{delays: crashDelays},
		key:     backoff{delays: keyDelays},
		mended:  backoff{delays: keyDelays},
		soon:    backoff{delays: soonDelays},
		answers: make(chan answer),
		syncs:   make(chan int64, 1),
		wakes:   make(chan struct{}, 1),
		up:      make(chan struct{}, 1),
		narrow:  make(chan *os.Process, 1),
	}
	v.life, v.endLife = context.WithCancel(context.Background())
	v.ask = v.askPython
	return v
}

// run looks after the worker until there is nothing left to do, and returns the exit status. Nothing in the loop waits but the end of a
// worker, so SIGTERM is obeyed at any moment.
func (v *supervisor) run(line string) int {
	defer v.stopAsking()
	signal.Notify(v.quit, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(v.hangup, syscall.SIGHUP)
	ticks := time.NewTicker(netnsPeriod)
	defer ticks.Stop()
	v.start(line)
	v.begin()
	for done, status := false, 0; ; {
		select {
		case <-v.quit:
			v.worker.end(endPatience)
			return exits.Done
		case <-v.hangup:
			ring(v.wakes, struct{}{})
			ring(v.syncs, monotonic())
		case ended := <-v.worker.ended():
			done, status = v.planNext(ended)
		case word := <-v.worker.words():
			v.hear(word)
		case <-v.due:
			done, status = v.doPlanned()
		case a := <-v.answers:
			done, status = v.take(a)
		case <-ticks.C:
			done, status = v.checkNetns()
		}
		if done {
			return status
		}
	}
}

// begin starts what runs beside the loop.
func (v *supervisor) begin() {
	go v.synchronise()
	go v.widen()
	if v.attended {
		go v.attend()
	}
	pids := []int{os.Getpid()} // first: what we start from then on is in the groups at once
	if v.worker != nil {
		pids = append(pids, v.worker.process.Pid)
	}
	go v.moveToGroups(pids)
}

// start starts a worker. One that cannot be started is tried again, as after a crash.
func (v *supervisor) start(line string) {
	w, err := startWorker(v.uid, v.underlay, v.spec.worker, line, v.log)
	if err != nil {
		v.log.printf("the worker cannot be started: %v", err)
		v.after(v.crash.next(), step{line: line})
		return
	}
	v.worker = w
}

// planNext decides what follows the end of a worker: a start, later, or our own end.
func (v *supervisor) planNext(status int) (done bool, exit int) {
	age := v.worker.age()
	v.worker = nil
	if v.reaping {
		return false, 0
	}
	if age >= healthy {
		v.crash.reset()
	}
	if age >= wellKeyed {
		v.key.reset()
	}
	v.mended.reset()
	v.soon.reset()
	switch status {
	case exits.Done:
		return true, exits.Done
	case exits.TUNGone:
		v.after(v.crash.next(), step{becomes: "run"})
	case exits.NeedsKey:
		v.after(v.key.next(), step{ask: []string{"rekey"}})
	case exits.Forgotten:
		v.after(v.key.next(), step{ask: []string{"rekey", "--deleted"}})
	default:
		var delay time.Duration // none after a worker that was healthy: connections wait for the next one
		if age < healthy {
			delay = v.crash.next()
		}
		v.log.printf("the worker ended with status %d; again in %v", status, delay)
		v.after(delay, step{line: "start\n"})
	}
	return false, 0
}

// after plans a step.
func (v *supervisor) after(delay time.Duration, s step) { v.plan, v.due = s, time.After(delay) }

// doPlanned does the planned step.
func (v *supervisor) doPlanned() (done bool, status int) {
	v.due = nil
	switch s := v.plan; {
	case s.line != "":
		v.start(s.line)
	case s.ask != nil:
		go v.report(s.ask[0], s.ask[1:]...)
	default:
		return true, v.become(s.becomes)
	}
	return false, 0
}

// report runs a task and gives its answer to the loop.
func (v *supervisor) report(task string, options ...string) {
	text, err := v.ask(task, options...)
	v.tell(answer{task, text, err})
}

// tell gives an answer to the loop, unless the supervisor ends.
func (v *supervisor) tell(a answer) {
	select {
	case v.answers <- a:
	case <-v.life.Done():
	}
}

// take acts on the answer of a task.
func (v *supervisor) take(a answer) (done bool, status int) {
	switch {
	case a.task == "logout":
		if a.err != nil {
			v.log.printf("%v", a.err)
		}
		return true, v.end("reap")
	case v.reaping:
		return false, 0
	case a.task == "rekey":
		return v.takeLine(a)
	default: // sync or attend: the node is to be another one
		return true, v.end("run")
	}
}

// takeLine starts a worker with the line that rekey printed. If there is none, rekey is asked again: soon if the control plane is away,
// because then the node should be back within seconds of it, and ever less often if a person has to mend something.
func (v *supervisor) takeLine(a answer) (done bool, status int) {
	if a.err == nil {
		v.start(a.text)
		return false, 0
	}
	v.log.printf("no start line: %v", a.err)
	switch exitStatus(a.err) {
	case exits.Gone:
		return true, exits.Gone
	case exits.AskAgain:
		v.after(jittered(v.soon.next()), v.plan)
	default:
		v.after(jittered(v.mended.next()), v.plan)
	}
	return false, 0
}

// hear acts on a word of the worker. Other words are ignored.
func (v *supervisor) hear(word string) {
	switch word {
	case "sync":
		ring(v.syncs, monotonic())
	case "sockets":
		ring(v.narrow, v.worker.process)
	case "running":
		v.key.reset()
		v.note("was-running")
		ring(v.up, struct{}{})
	case "online":
		v.note("was-online")
	}
}

// note leaves a note for Python that something has happened.
func (v *supervisor) note(what string) {
	if err := os.WriteFile(filepath.Join(v.notes, what), nil, 0o600); err != nil {
		v.log.printf("%v", err)
	}
}

// checkNetns ends a node whose pod is gone. An ephemeral one is logged out first, if its worker runs.
func (v *supervisor) checkNetns() (done bool, status int) {
	if v.reaping || v.netnsIsThere() {
		return false, 0
	}
	v.log.printf("the pod's network namespace is gone")
	if !v.ephemeral || v.worker == nil {
		return true, v.end("reap")
	}
	v.reaping, v.due = true, nil
	go v.report("logout")
	return false, 0
}

// netnsIsThere reports whether the pod's namespace is still at its path. Another namespace cannot have its inode by now: the TUN
// descriptor keeps the namespace alive as long as we live.
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

// end ends the worker and becomes a command of the artefact.
func (v *supervisor) end(command string) int {
	v.worker.end(endPatience)
	return v.become(command)
}

// become turns this process into a command of the artefact, unless a signal to end has come by now; one that comes later ends the
// command. The descriptors that keep the namespace alive close on exec.
func (v *supervisor) become(task string) int {
	v.stopAsking()
	signal.Ignore(syscall.SIGHUP)
	signal.Reset(syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-v.quit:
		return exits.Done
	default:
	}
	command := v.command(task)
	err := syscall.Exec(command[0], command, environment)
	v.log.printf("%s: %v", task, err)
	return exits.Crash
}

// moveToGroups moves processes to our control groups. The kernel takes 10 ms for the first move (an RCU grace period), and the start of
// the worker does not wait for it. A process that cannot be moved stays in the runtime's group.
func (v *supervisor) moveToGroups(pids []int) {
	for _, pid := range pids {
		for _, group := range v.groups {
			if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
				v.log.printf("%v", err)
			}
		}
	}
}

// ring sends to a channel with room for one value, unless one is pending already.
func ring[T any](bell chan<- T, value T) {
	select {
	case bell <- value:
	default:
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, as Python's time.monotonic_ns() has it.
func monotonic() int64 {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// jittered cuts a delay by up to a quarter, so that nodes that failed together do not ask together.
func jittered(delay time.Duration) time.Duration { return delay - rand.N(delay/4) }

// delays are the first and the longest delay between tries.
type delays struct{ first, longest time.Duration }

// backoff doubles the delay with every try; the first try after a reset has the first delay.
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
