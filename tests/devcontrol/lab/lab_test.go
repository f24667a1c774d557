// Package lab runs the built worker, supervisor and devcontrol as processes, in network namespaces and on TUN devices of their own, with a
// control plane. Everything is created for a test, has a unique name and is removed after the test.
//
// It needs root, iproute2, util-linux and ping. It changes nothing that it has not created.
package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a test waits for an event that takes a moment on an idle machine.
const Patience = 40 * time.Second

// WaitUntil waits until the condition is true, and fails the test after Patience.
func WaitUntil(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Unique returns a unique name, short enough for an interface.
func Unique(prefix string) string { return prefix + strings.ToLower(rand.Text()[:8]) }

// Run runs a command that must succeed, and returns its standard output.
func Run(t testing.TB, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	return string(out)
}

var builds struct {
	sync.Mutex
	dir  string
	done map[string]string
}

// workers is the directory of the module of the worker and the supervisor.
const workers = "../../../workers"

// Program returns the path of a program as it is released. $PROGRAMS names the directory that contains the built programs.
func Program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PROGRAMS")
	if dir == "" {
		t.Fatal("$PROGRAMS is not set: tests/netns/test_workers.py builds the programs and runs these tests")
	}
	return filepath.Join(dir, name)
}

// Build builds a package of this module, once per test binary, and returns the program's path.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path, ok := builds.done[pkg]; ok {
		return path
	}
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "workers-test-")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil { // workers run as other users
			t.Fatal(err)
		}
		builds.dir, builds.done = dir, map[string]string{}
	}
	path := filepath.Join(builds.dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	builds.done[pkg] = path
	return path
}

// RemovePrograms removes the programs that Build built; TestMain calls it at the end.
func RemovePrograms() {
	if builds.dir != "" {
		os.RemoveAll(builds.dir)
	}
}

// Tags returns the build tags of the worker.
func Tags(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(workers + "/tags.txt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Netns is a network namespace.
type Netns struct {
	Name string
	Path string

	router *Netns // the router that a host's eth0 is connected to
	t      testing.TB
}

// NewNetns creates a network namespace whose loopback interface is up.
func NewNetns(t testing.TB) *Netns {
	t.Helper()
	name := Unique("wt-")
	Run(t, "ip", "netns", "add", name)
	ns := &Netns{Name: name, Path: "/run/netns/" + name, t: t}
	t.Cleanup(ns.Delete)
	ns.IP("link", "set", "lo", "up")
	return ns
}

// NewHost creates a network namespace like that of a host: with an address, a default route, and a router.
func NewHost(t testing.TB) *Netns {
	t.Helper()
	router, ns := NewNetns(t), NewNetns(t)
	ns.router = router
	router.IP("link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", ns.Name)
	router.IP("addr", "add", "10.77.0.254/24", "dev", "lan")
	router.IP("link", "set", "lan", "up")
	ns.IP("addr", "add", "10.77.0.1/24", "dev", "eth0")
	ns.IP("link", "set", "eth0", "up")
	ns.IP("route", "add", "default", "via", "10.77.0.254")
	return ns
}

// Delete removes the namespace's name; the namespace itself lives as long as a process uses it.
func (ns *Netns) Delete() { exec.Command("ip", "netns", "del", ns.Name).Run() }

// IP runs ip(8) inside the namespace.
func (ns *Netns) IP(args ...string) string {
	ns.t.Helper()
	return Run(ns.t, append([]string{"ip", "-n", ns.Name}, args...)...)
}

// Do calls f on a thread that is inside the namespace.
func (ns *Netns) Do(f func() error) {
	ns.t.Helper()
	if err := ns.do(f); err != nil {
		ns.t.Fatal(err)
	}
}

func (ns *Netns) do(f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		failed <- func() error {
			target, err := os.Open(ns.Path)
			if err != nil {
				return err
			}
			defer target.Close()
			if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns %s: %w", ns.Path, err)
			}
			return f()
		}()
	}()
	return <-failed
}

// Inode returns the namespace's inode number, which identifies it.
func (ns *Netns) Inode() uint64 {
	var st unix.Stat_t
	if err := unix.Stat(ns.Path, &st); err != nil {
		ns.t.Fatal(err)
	}
	return st.Ino
}

// Dial connects from inside the namespace.
func (ns *Netns) Dial(address string) (c net.Conn, err error) {
	err = ns.do(func() error {
		c, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	return c, err
}

// Listen listens inside the namespace.
func (ns *Netns) Listen(network, address string) net.Listener {
	ns.t.Helper()
	var l net.Listener
	ns.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	ns.t.Cleanup(func() { l.Close() })
	return l
}

// tunFlags are IFF_TUN | IFF_NO_PI | IFF_VNET_HDR.
const tunFlags = 0x5001

// TUN attaches to the persistent TUN device with that name and owner inside the namespace, and creates it if necessary.
func (ns *Netns) TUN(name string, uid int) *os.File {
	ns.t.Helper()
	var f *os.File
	ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(tunFlags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid); err != nil {
			return err
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	ns.IP("link", "set", name, "mtu", "1280", "up")
	return f
}

// Process is a running program.
type Process struct {
	Cmd    *exec.Cmd
	Out    *Lines // standard output
	Err    *Lines // standard error
	exited chan struct{}
	t      testing.TB
}

// Start starts a command. It is killed at the end of the test if it still runs.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, Out: &Lines{}, Err: &Lines{}, exited: make(chan struct{}), t: t}
	cmd.Stdout, cmd.Stderr = p.Out, p.Err
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s (%v)\nstdout:\n%sstderr:\n%s", cmd.Path, cmd.ProcessState, p.Out, p.Err)
		}
	})
	return p
}

// Kill sends SIGKILL and waits until the process has ended.
func (p *Process) Kill() {
	p.Cmd.Process.Kill()
	<-p.exited
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { p.Cmd.Process.Signal(s) }

// PID returns the process ID.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Exited reports whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Wait waits for the end of the process and returns its exit status, -1 after a signal.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		p.t.Fatalf("%s has not ended after %v", p.Cmd.Path, Patience)
		return -1
	}
}

// Lines collects the output of a process.
type Lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Has reports whether the text contains s.
func (l *Lines) Has(s string) bool { return strings.Contains(l.String(), s) }

// Count returns how often the text contains s.
func (l *Lines) Count(s string) int { return strings.Count(l.String(), s) }

// Inside returns a command that runs a program inside the namespace.
func (ns *Netns) Inside(argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns.Path, "--"}, argv...)...)
}

// Control is a running devcontrol.
type Control struct {
	*Process
	URL   string
	host  *Netns
	args  []string
	state string
	admin *http.Client
	t     testing.TB
}

// NewControl starts a control plane at the host's address.
func NewControl(t testing.TB, host *Netns, args ...string) *Control {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "admin.sock")
	c := &Control{host: host, args: args, state: filepath.Join(dir, "state.json"), t: t}
	c.admin = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	c.args = append([]string{"--admin", socket, "--state", c.state, "--verbose"}, args...)
	c.Begin("10.77.0.1:0")
	return c
}

// Begin starts the control plane at that address, with its saved state.
func (c *Control) Begin(address string) {
	c.t.Helper()
	argv := append([]string{Program(c.t, "devcontrol"), "--listen", address}, c.args...)
	c.Process = Start(c.t, c.host.Inside(argv...))
	var ready struct{ Control string }
	WaitUntil(c.t, "devcontrol is ready", func() bool {
		if c.Exited() {
			c.t.Fatalf("devcontrol: %s", c.Err)
		}
		return json.Unmarshal([]byte(c.Out.String()), &ready) == nil
	})
	c.URL = ready.Control
}

// Restart stops the control plane, calls meanwhile, and starts the control plane again at the same address.
func (c *Control) Restart(meanwhile func()) {
	c.t.Helper()
	c.Signal(syscall.SIGTERM)
	c.Wait()
	meanwhile()
	c.Begin(strings.TrimPrefix(c.URL, "http://"))
}

// NodeInfo is a node in the answers of the admin API.
type NodeInfo struct {
	ID, Name, FQDN, NodeKey string
	Addresses               []string
	Tags                    []string
	Ephemeral, Online       bool
	Endpoints               []string
	Routes                  []string
}

// Nodes returns the tailnet's nodes.
func (c *Control) Nodes() (nodes []NodeInfo) {
	c.t.Helper()
	c.Call("GET", "/nodes", nil, &nodes)
	return nodes
}

// Node returns the node with that name, and whether it exists.
func (c *Control) Node(name string) (NodeInfo, bool) {
	c.t.Helper()
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n, true
		}
	}
	return NodeInfo{}, false
}

// Key creates an auth key.
func (c *Control) Key(request map[string]any) (id, key string) {
	c.t.Helper()
	var k struct{ ID, Key string }
	c.Call("POST", "/keys", request, &k)
	return k.ID, k.Key
}

// Call makes a request to the admin API, and fails the test if it does not succeed. answer may be nil.
func (c *Control) Call(method, path string, body, answer any) {
	c.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://admin"+path, bytes.NewReader(text))
	if err != nil {
		c.t.Fatal(err)
	}
	response, err := c.admin.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if response.StatusCode >= 300 || err != nil {
		c.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, got, err)
	}
	if answer != nil {
		if err := json.Unmarshal(got, answer); err != nil {
			c.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// ReadLine reads a line, and returns it without its end; it fails the test on an error.
func ReadLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

// The main goroutine stays on the main thread. Other threads that enter a namespace end with their goroutines, but the main thread never
// ends, and would keep the namespace.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: they need root")
		os.Exit(1)
	}
	status := m.Run()
	RemovePrograms()
	os.Exit(status)
}
