package main

import (
	"bufio"
	"io"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	maxWord    = 64   // bytes of a message; longer ones are nobody's
	maxLogLine = 8192 // bytes of a log line; the rest becomes another one
)

// worker is a running worker process. The methods take a nil one for none.
type worker struct {
	process *os.Process // never another one, even if its number is used again
	started time.Time
	stdin   *os.File
	said    chan string
	status  chan int
}

// startWorker starts a worker in its own user ID, with its sockets in that namespace and descriptors 3 to 5 as they are, and gives it its
// start line.
func startWorker(uid int, underlay home, program []string, line string, log *logger) (*worker, error) {
	var ours, theirs [3]*os.File
	defer func() { closeAll(theirs[:]) }()
	for i := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ours[:])
			return nil, err
		}
		if ours[i], theirs[i] = r, w; i == 0 {
			ours[i], theirs[i] = w, r
		}
	}
	argv := slices.Concat([]string{"supervisor", "become", strconv.Itoa(uid)}, underlay.words(), program)
	files := []uintptr{theirs[0].Fd(), theirs[1].Fd(), theirs[2].Fd()}
	for fd := uintptr(firstHandedOn); fd <= lastHandedOn; fd++ {
		files = append(files, fd)
	}
	// Not os/exec: it would make the TUN, which we share with the worker, a blocking one.
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{Env: []string{}, Files: files})
	if err != nil {
		closeAll(ours[:])
		return nil, err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		closeAll(ours[:])
		return nil, err
	}
	w := &worker{process: process, started: time.Now(), stdin: ours[0], said: make(chan string), status: make(chan int, 1)}
	if _, err := io.WriteString(w.stdin, line); err != nil {
		log.printf("the worker does not read: %v", err)
	}
	gone := make(chan struct{})
	go readWords(ours[1], w.said, gone)
	go log.copy(ours[2])
	go func() {
		w.status <- wait(process)
		close(gone)
		w.stdin.Close()
	}()
	return w, nil
}

// wait returns the exit status of a child, 128 + n for signal n.
func wait(process *os.Process) int {
	state, err := process.Wait()
	if err != nil {
		return 1
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// readWords hands on the one-word lines of a worker until it is gone, and drops what is longer than a word.
func readWords(r io.ReadCloser, said chan<- string, gone <-chan struct{}) {
	defer r.Close()
	lines := bufio.NewReaderSize(r, maxWord)
	for {
		line, tooLong, err := lines.ReadLine()
		for tooLong && err == nil {
			_, tooLong, err = lines.ReadLine()
			line = nil
		}
		if err != nil {
			return
		}
		if len(line) == 0 {
			continue
		}
		select {
		case said <- string(line):
		case <-gone:
			return
		}
	}
}

func (w *worker) ended() <-chan int {
	if w == nil {
		return nil
	}
	return w.status
}

func (w *worker) words() <-chan string {
	if w == nil {
		return nil
	}
	return w.said
}

func (w *worker) age() time.Duration { return time.Since(w.started) }

// end ends the worker: asked first, killed when that has taken too long.
func (w *worker) end(patience time.Duration) {
	if w == nil {
		return
	}
	w.process.Signal(syscall.SIGTERM)
	deadline := time.After(patience)
	for {
		select {
		case <-w.said: // drained, or a talkative one would not end
		case <-w.status:
			return
		case <-deadline:
			w.process.Kill()
			<-w.status
			return
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
