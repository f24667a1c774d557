package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// startLine is the first line on standard input: how the node is to begin.
type startLine struct {
	key    string // auth key; empty: what is on disk must do
	forget bool   // begin as a new node
}

const maxLine = 4096 // bytes of a line on standard input

// readStartLine reads "start", "key KEY" or "new-key KEY". No error contains any of what was read: it may be a key.
func readStartLine(r *bufio.Reader) (startLine, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return startLine{}, fmt.Errorf("the start line is longer than %d bytes", maxLine)
	}
	if err != nil {
		return startLine{}, fmt.Errorf("no start line: %w", err)
	}
	verb, key, hasKey := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	switch {
	case verb == "start" && !hasKey:
		return startLine{}, nil
	case verb == "key" && isKey(key):
		return startLine{key: key}, nil
	case verb == "new-key" && isKey(key):
		return startLine{key: key, forget: true}, nil
	}
	return startLine{}, errors.New(`the start line is none of "start", "key KEY", "new-key KEY"`)
}

// isKey reports whether s can be an auth key: printable ASCII without spaces.
func isKey(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// watchCommands calls logout for each line that says so, and returns when standard input ends. Unknown lines are ignored.
func watchCommands(r *bufio.Reader, logout func()) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
		if string(line) == "logout\n" {
			logout()
		}
	}
}

// messages are the words that go to the supervisor.
type messages struct{ w io.Writer }

func (m messages) running() { fmt.Fprintln(m.w, "running") }
func (m messages) online()  { fmt.Fprintln(m.w, "online") }
func (m messages) sync()    { fmt.Fprintln(m.w, "sync") }
func (m messages) sockets() { fmt.Fprintln(m.w, "sockets") }
