package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
)

// keyPattern matches every kind of key that Tailscale and Headscale give out.
var keyPattern = regexp.MustCompile(`\b(tskey|hskey)-[A-Za-z0-9_-]+`)

// logger writes one line per call to standard error. No key reaches it.
type logger struct {
	mu      sync.Mutex
	w       io.Writer
	secret  []byte // the auth key of this start, whatever it looks like
	verbose bool
}

func newLogger(verbose bool) *logger { return &logger{w: os.Stderr, verbose: verbose} }

// hide keeps this string out of the log.
func (l *logger) hide(secret string) { l.secret = []byte(secret) }

// printf logs what a person should read.
func (l *logger) printf(format string, args ...any) {
	l.line(fmt.Appendf(nil, format, args...))
}

// tailscale logs what tailscale logs, if that was asked for.
func (l *logger) tailscale(format string, args ...any) {
	if l.verbose {
		l.line(fmt.Appendf(nil, format, args...))
	}
}

// Write makes the logger an output of Go's log package, which tailscale.com uses here and there, and for its last words.
func (l *logger) Write(p []byte) (int, error) {
	l.line(p)
	return len(p), nil
}

func (l *logger) line(text []byte) {
	text = keyPattern.ReplaceAll(text, []byte("$1-***"))
	if len(l.secret) > 0 {
		text = bytes.ReplaceAll(text, l.secret, []byte("***"))
	}
	text = bytes.ReplaceAll(bytes.TrimRight(text, "\n"), []byte("\n"), []byte(" | "))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.Write(append(text, '\n'))
}
