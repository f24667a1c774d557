package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const maxLogFile = 1 << 20

// logger writes lines to a file that is rotated, or to standard error where somebody else keeps the log.
type logger struct {
	path string
	mu   sync.Mutex
}

func (l *logger) printf(format string, args ...any) {
	l.write([]byte(fmt.Sprintf("supervisor: "+format, args...)))
}

// copy logs what a worker writes to its standard error, line by line, until that ends.
func (l *logger) copy(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		l.write(line)
	}
}

// write logs a line. What comes from a worker may be anything: control characters would reach a person's terminal.
func (l *logger) write(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			line[i] = '?'
		}
	}
	if l.path == "" {
		os.Stderr.Write(append(line, '\n'))
		return
	}
	l.rotate()
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return // a full disk must not end a node
	}
	defer f.Close()
	f.Write(append([]byte(time.Now().Format(time.RFC3339)+" "), append(line, '\n')...))
}

// rotate keeps one old file.
func (l *logger) rotate() {
	if status, err := os.Stat(l.path); err == nil && status.Size() >= maxLogFile {
		os.Rename(l.path, l.path+".1")
	}
}
