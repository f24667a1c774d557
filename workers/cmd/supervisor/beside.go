package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tailscale-cni/workers/internal/exits"
)

// What runs beside the loop, each in a goroutine of its own: Python's sync and attend, and larger buffers for the worker's sockets.

const (
	settleTime  = 300 * time.Millisecond
	attendFirst = 2 * time.Second // a new node has registered by then
	attendLast  = time.Hour
)

// synchronise has Python configure what the worker's words were about: one task at a time, at most one a second, again after a failure.
// It waits a second first: the words of a new node are for the ADD that waits for it, and several often come together.
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
			if exitStatus(err) == exits.Moved {
				v.tell(answer{"sync", "", err})
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

// attend has Python look after an identity that the cluster keeps: when the node is up, and after as many seconds as Python said last. It
// ends when Python says 0.
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
		case exitStatus(err) == exits.Moved:
			v.tell(answer{"attend", "", err})
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

// widen gives larger buffers to the sockets of workers that asked for it. It waits a moment first: a worker that binds its port again
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

// configuredSince reports whether Python has asked the node for its state after that moment, and has configured it.
func (v *supervisor) configuredSince(moment int64) bool {
	text, err := os.ReadFile(filepath.Join(v.notes, "configured"))
	if err != nil {
		return false
	}
	asked, _, _ := strings.Cut(string(text), " ")
	when, err := strconv.ParseInt(asked, 10, 64)
	return err == nil && when > moment
}
