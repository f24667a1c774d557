package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

const askTimeout = time.Minute

// exitStatus returns the exit status of a task that failed with one; 0 if it succeeded or failed in another way.
func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// environment is all that the artefact gets of one.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// command is the command line of a task for our attachment.
func (v *supervisor) command(task string, options ...string) []string {
	line := []string{v.self, "worker", task, "--state-dir", v.stateDir}
	return append(append(line, options...), v.id)
}

// askPython runs a task of the artefact, and returns the line that it printed, if any. What it complains of is logged, whatever its end.
func (v *supervisor) askPython(task string, options ...string) (string, error) {
	v.asking.Add(1)
	defer v.asking.Done()
	ctx, cancel := context.WithTimeout(v.life, askTimeout)
	defer cancel()
	line := v.command(task, options...)
	if task == "attend" {
		line = slices.Concat(v.outside, line)
	}
	said, complaints := &bounded{}, &bounded{}
	c := exec.CommandContext(ctx, line[0], line[1:]...)
	c.Env, c.Stdout, c.Stderr, c.WaitDelay = environment, said, complaints, time.Second
	err := c.Run()
	for line := range bytes.Lines(complaints.Bytes()) {
		v.log.write(bytes.TrimRight(line, "\n"))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", task, err)
	}
	if said.Len() == 0 {
		if task == "rekey" {
			return "", errors.New("rekey: it printed no line")
		}
		return "", nil
	}
	return oneLine(said.Bytes())
}

// stopAsking ends the tasks that run, and returns when they have ended: nothing of ours may outlive us.
func (v *supervisor) stopAsking() {
	v.endLife()
	v.asking.Wait()
}

// bounded keeps the first bytes of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxLine-b.Len())])
	return len(p), nil
}
