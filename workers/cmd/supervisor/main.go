// Command supervisor looks after one worker: it starts it in its own user ID, starts it again, and asks Python when something
// must change. It parses nothing of what the worker says but fixed one-word lines, and knows nothing of Tailscale.
//
//	fd 3, 4, 5  the worker's TUN, listening socket and peers, handed on at each start
//	fd 6        the first start line, read once
//	.           the worker's state directory
//
// docs/internals.md, "A node's processes", is the contract.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	firstHandedOn = 3
	lastHandedOn  = 5
	fdFirstLine   = 6
	maxLine       = 4096
)

// spec is what the command line says.
type spec struct {
	id         string
	self       string // the artefact, which answers questions
	stateDir   string
	netns      string // path of the pod's network namespace
	netnsInode uint64
	underlay   home     // the network namespace of the worker's sockets
	notes      string   // a directory where Python and we tell each other what has happened
	groups     []string // control groups that we and the worker move to
	uid        int
	ephemeral  bool
	attended   bool
	outside    []string // what runs a command outside of the worker's limits: the beginning of a command line
	logFile    string
	worker     []string // program and arguments
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "become" {
		fmt.Fprintln(os.Stderr, "supervisor: become:", become(os.Args[2:]))
		os.Exit(1)
	}
	s, err := parseFlags(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		os.Exit(2)
	}
	useLittleMemory()
	closeOnExec()
	line, err := readFirstLine()
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervisor: no start line:", err)
		os.Exit(1)
	}
	os.Exit(newSupervisor(s).run(line))
}

// useLittleMemory is for us, and for all that we start where it says so.
func useLittleMemory() {
	runtime.GOMAXPROCS(1)
	// The same for the worker. Where the kernel uses huge pages unasked, which is Debian's default, a page that is touched of any two
	// megabytes of a heap takes them all: an idle worker 20 MB instead of 4. A kernel that does not know huge pages is fine, too.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
}

// closeOnExec keeps our descriptors, and what whoever started us forgot to close, from all that we start. startWorker hands on what is
// a worker's.
func closeOnExec() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		os.Exit(1)
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= firstHandedOn {
			unix.CloseOnExec(fd)
		}
	}
}

func parseFlags(args []string) (spec, error) {
	var s spec
	flags := flag.NewFlagSet("supervisor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.id, "id", "", "the attachment")
	flags.StringVar(&s.self, "self", "", "the artefact")
	flags.StringVar(&s.stateDir, "state-dir", "", "where state is")
	flags.StringVar(&s.netns, "netns", "", "path of the pod's network namespace")
	flags.Uint64Var(&s.netnsInode, "netns-inode", 0, "its inode")
	inPod := flags.Bool("underlay-pod", false, "run the worker in that namespace, instead of ours")
	flags.StringVar(&s.notes, "notes", "", "a directory for notes between Python and us")
	flags.Func("group", "a control group to move to; any number", func(dir string) error {
		s.groups = append(s.groups, dir)
		return nil
	})
	flags.IntVar(&s.uid, "uid", 0, "the worker's user and group ID")
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "log the node out when its pod is gone")
	flags.BoolVar(&s.attended, "attend", false, "let the artefact look after the node's identity now and then")
	flags.Func("outside", "a word of what runs that outside of the worker's limits; any number", func(word string) error {
		s.outside = append(s.outside, word)
		return nil
	})
	flags.StringVar(&s.logFile, "log", "", "a log file that is rotated (default: standard error)")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	s.worker = flags.Args()
	if *inPod {
		s.underlay = home{s.netns, s.netnsInode}
	}
	for name, value := range map[string]string{"id": s.id, "self": s.self, "state-dir": s.stateDir, "netns": s.netns} {
		if value == "" {
			return s, fmt.Errorf("--%s is missing", name)
		}
	}
	if s.uid <= 0 {
		return s, errors.New("--uid must not be root's")
	}
	if len(s.worker) == 0 {
		return s, errors.New("the worker's command line is missing")
	}
	return s, nil
}

// readFirstLine reads the line that `worker run` left in a pipe.
func readFirstLine() (string, error) {
	pipe := os.NewFile(fdFirstLine, "first line")
	if pipe == nil {
		return "", errors.New("descriptor 6 is closed")
	}
	defer pipe.Close()
	text, err := io.ReadAll(io.LimitReader(pipe, maxLine))
	if err != nil {
		return "", err
	}
	return oneLine(text)
}

// oneLine is the line that a text consists of, with its end. No error contains any of it: it may be a key.
func oneLine(text []byte) (string, error) {
	line, rest, found := strings.Cut(string(text), "\n")
	if !found || line == "" || rest != "" {
		return "", errors.New("it is not one line")
	}
	return line + "\n", nil
}
