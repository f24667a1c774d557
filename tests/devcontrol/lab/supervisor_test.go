package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// pit is a supervisor with a fake worker, and with a fake artefact that records its calls.
type pit struct {
	*Process
	t     testing.TB
	host  *Netns
	pod   *Netns
	dir   string // owned by root
	state string // owned by the worker
	args  []string
}

func newPit(t testing.TB, args ...string) *pit {
	t.Helper()
	p := &pit{t: t, host: NewNetns(t), pod: NewNetns(t), dir: t.TempDir(), args: args}
	p.state = filepath.Join(p.dir, "state")
	if err := os.Mkdir(p.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.state, workerUID, workerUID); err != nil {
		t.Fatal(err)
	}
	// The artefact records its arguments and what it inherited. For rekey it prints the contents of ./answer, for logout it runs ./logout.
	// It fails once for each line of ./failures, with the exit status in that line.
	script := fmt.Sprintf(`#!/bin/sh
cd %s
echo "$@" >> asked
{ echo "$@"; env; readlink /proc/$$/ns/net /proc/$$/fd/*; } > inherited.$2
if [ "$2" = sync ]; then echo begin >> syncs; fi
if [ -s failures ]; then s=$(head -n1 failures); sed -i 1d failures; echo no such luck >&2; exit $s; fi
if [ "$2" = rekey ]; then cat answer; fi
if [ "$2" = logout ] && [ -e logout ]; then . ./logout; fi
if [ "$2" = attend ]; then echo by the way >&2; fi
if [ "$2" = sync ]; then echo end >> syncs; fi
`, p.dir)
	if err := os.WriteFile(p.file("artefact"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pit) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pit) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(p.file(name), []byte(text), 0o666); err != nil {
		p.t.Fatal(err)
	}
}

// read returns a file's text, "" if the file does not exist.
func (p *pit) read(name string) string {
	text, _ := os.ReadFile(p.file(name))
	return string(text)
}

// script sets the commands of the fake worker.
func (p *pit) script(lines ...string) {
	p.write("state/script", strings.Join(lines, "\n")+"\n")
	os.Chown(p.file("state/script"), workerUID, workerUID)
}

// begin starts the supervisor as `worker run` would.
func (p *pit) begin(line string) *pit {
	p.t.Helper()
	tun := p.pod.TUN("ts0", workerUID)
	defer tun.Close()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.file("local.sock"), Net: "unix"})
	if err != nil {
		p.t.Fatal(err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	socket, err := listener.File()
	if err != nil {
		p.t.Fatal(err)
	}
	defer socket.Close()
	peers, err := os.OpenFile(p.file("peers"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer peers.Close()
	first, out, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	defer first.Close()
	fmt.Fprintln(out, line)
	out.Close()
	argv := []string{Program(p.t, "supervisor"), "--id", "0123456789ab", "--self", p.file("artefact"), "--state-dir", "/nowhere",
		"--netns", p.pod.Path, "--netns-inode", strconv.FormatUint(p.pod.Inode(), 10), "--uid", strconv.Itoa(workerUID)}
	argv = append(append(argv, p.args...), "--", Build(p.t, "tailscale-cni/devcontrol/lab/testdata/fakeworker"), "--hostname", "web")
	cmd := p.host.Inside(argv...)
	cmd.Dir, cmd.Env = p.state, []string{"TS_AUTHKEY=tskey-x", "SECRET=x", "PATH=/nowhere"}
	stray, err := os.Open("/dev/null")
	if err != nil {
		p.t.Fatal(err)
	}
	defer stray.Close()
	cmd.ExtraFiles = []*os.File{tun, socket, peers, first, stray} // the last one is a descriptor that a runtime forgot to close
	p.Process = Start(p.t, cmd)
	return p
}

// starts waits until the worker has been started n times, and returns the start lines.
func (p *pit) starts(n int) []string {
	p.t.Helper()
	var lines []string
	WaitUntil(p.t, fmt.Sprintf("the worker starts for the %d. time", n), func() bool {
		lines = strings.Split(strings.TrimSuffix(p.read("state/starts"), "\n"), "\n")
		return len(lines) >= n && lines[0] != ""
	})
	return lines
}

// killWorker kills the running worker.
func (p *pit) killWorker() {
	p.t.Helper()
	var pid int
	WaitUntil(p.t, "the worker runs", func() bool {
		m := regexp.MustCompile(`(?m)^Pid:\t(\d+)$`).FindStringSubmatch(p.read("state/self"))
		if m == nil {
			return false
		}
		pid, _ = strconv.Atoi(m[1])
		return syscall.Kill(pid, 0) == nil
	})
	syscall.Kill(pid, syscall.SIGKILL)
}

// workerEnds waits until no worker is left. The supervisor and the worker have the same working directory.
func (p *pit) workerEnds() {
	p.t.Helper()
	WaitUntil(p.t, "the worker has ended", func() bool { return strings.Count(processesIn(p.t, p.state), " ") == 1 })
}

func (p *pit) asked(line string) {
	p.t.Helper()
	WaitUntil(p.t, "the artefact is asked: "+line, func() bool { return strings.Contains(p.read("asked"), line+"\n") })
}

// However the worker ends, it is started again with the right start line: after a crash with "start", without a key or a node with the
// answer of rekey.
func TestSupervisorStartsAgain(t *testing.T) {
	for _, test := range []struct{ name, end, asked, line string }{
		{"crash", "exit 1", "", "start"},
		{"usage", "exit 2", "", "start"},
		{"port busy", "exit 13", "", "start"},
		{"needs a key", "exit 10", "worker rekey --state-dir /nowhere 0123456789ab", "key tskey-fresh"},
		{"forgotten", "exit 11", "worker rekey --state-dir /nowhere --deleted 0123456789ab", "new-key tskey-fresh"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPit(t)
			p.write("answer", test.line+"\n")
			p.script(test.end, "stay")
			p.begin("key tskey-first")
			if lines := p.starts(2); lines[0] != "key tskey-first" || lines[1] != test.line {
				t.Errorf("start lines %q, want the second %q", lines, test.line)
			}
			if asked := strings.TrimSpace(p.read("asked")); asked != test.asked {
				t.Errorf("asked %q, want %q", asked, test.asked)
			}
			if p.Err.Has("tskey") || strings.Contains(p.read("state/self"), "tskey") {
				t.Error("a key is where others can read it")
			}
		})
	}
}

// While the control plane is down (rekey exits with 20), the supervisor calls rekey every few seconds, for as long as necessary.
func TestSupervisorAsksSoon(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.write("answer", "key k\n")
	p.write("failures", strings.Repeat("20\n", 5)) // 2+2+4+8+8+8 s at most; with the other delays it would take over a minute
	p.script("exit 10", "stay")
	p.begin("start")
	p.starts(2) // and nothing writes to the directories any more when they are removed
	if n := strings.Count(p.read("asked"), "rekey"); n != 6 {
		t.Errorf("asked %d times, want 6", n)
	}
}

// If rekey fails, it is called again until it prints a line.
func TestSupervisorAsksAgain(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.write("answer", "key k\n")
	p.write("failures", "1\n")
	p.script("exit 10", "stay")
	p.begin("start")
	p.starts(2)
	if n := strings.Count(p.read("asked"), "rekey"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	if !p.Err.Has("no such luck") {
		t.Error("the log does not tell why it failed")
	}
}

// A node that must not exist any more (rekey exits with 3) ends for good, and the supervisor makes no further call.
func TestSupervisorObeysTheEnd(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.write("failures", "3\n")
	p.script("exit 11", "stay")
	if status := p.begin("start").Wait(); status != 3 {
		t.Errorf("exit status %d, want 3", status)
	}
	if asked := strings.TrimSpace(p.read("asked")); asked != "worker rekey --state-dir /nowhere --deleted 0123456789ab" {
		t.Errorf("asked %q", asked)
	}
	if left := processesIn(t, p.state); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A worker that is killed several times is started again each time, by the same supervisor.
func TestSupervisorSurvivesKills(t *testing.T) {
	t.Parallel()
	p := newPit(t).begin("start")
	for n := 1; n <= 3; n++ {
		p.starts(n)
		p.killWorker()
	}
	p.starts(4)
}

// After a logout of the worker or a SIGTERM, the supervisor exits with 0, so that the unit is not restarted.
func TestSupervisorEnds(t *testing.T) {
	for _, test := range []struct {
		name, script string
		end          func(*pit)
	}{
		{"logged out", "exit 0", func(*pit) {}},
		{"terminated", "stay", func(p *pit) { p.Signal(syscall.SIGTERM) }},
		{"terminated, worker ignores it", "ignore", func(p *pit) {
			WaitUntil(p.t, "the worker ignores signals", func() bool { _, err := os.Stat(p.file("state/ignoring")); return err == nil })
			p.Signal(syscall.SIGTERM)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPit(t)
			p.script(test.script)
			p.begin("start").starts(1)
			test.end(p)
			if status := p.Wait(); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if left := processesIn(t, p.state); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// SIGTERM ends the supervisor at once, regardless of what it is waiting for.
func TestSupervisorObeysSIGTERMAtAnyMoment(t *testing.T) {
	for _, test := range []struct {
		name   string
		begin  func(*pit)
		unless string // the call that would follow if the supervisor ignored the signal
	}{
		// Five crashes increase the delay before the next step to 3.2 s.
		{"before it runs anew", func(p *pit) {
			p.script("exit 1", "exit 1", "exit 1", "exit 1", "exit 1", "exit 12")
			p.begin("start").starts(6)
			p.workerEnds()
		}, "worker run"},
		{"before the next start", func(p *pit) {
			p.script("exit 1", "exit 1", "exit 1", "exit 1", "exit 1", "exit 1")
			p.begin("start").starts(6)
			p.workerEnds()
		}, ""},
		{"before it asks for a key", func(p *pit) {
			p.script("exit 10")
			p.begin("start").starts(1)
			p.workerEnds()
		}, "worker rekey"},
		{"while the node is logged out", func(p *pit) {
			p.args = []string{"--ephemeral"}
			p.write("logout", "exec sleep 60\n")
			p.begin("start").starts(1)
			p.pod.Delete()
			p.asked("worker logout --state-dir /nowhere 0123456789ab")
		}, "worker reap"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPit(t)
			test.begin(p)
			starts := p.read("state/starts")
			p.Signal(syscall.SIGTERM)
			if status := p.Wait(); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if asked := p.read("asked"); test.unless != "" && strings.Contains(asked, test.unless) {
				t.Errorf("asked %q", asked)
			}
			if now := p.read("state/starts"); now != starts {
				t.Errorf("the worker was started again: %q", now)
			}
			if left := processesIn(t, p.state); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// A worker that ends while its node is logged out, for whatever reason, is not started again, and the rest of the node is removed.
func TestWorkerEndsByTheLogout(t *testing.T) {
	t.Parallel()
	p := newPit(t, "--ephemeral")
	p.write("logout", "kill -9 $(sed -n 's/^Pid:.//p' state/self); sleep 1\n") // long enough for a start
	p.begin("start").starts(1)
	p.pod.Delete()
	p.asked("worker reap --state-dir /nowhere 0123456789ab")
	if starts := p.starts(1); len(starts) != 1 {
		t.Errorf("started %d times", len(starts))
	}
}

// If the worker's interface is gone, the supervisor executes the command that creates an interface, without the old descriptors.
func TestSupervisorRunsAnew(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.script("exit 12")
	p.begin("start")
	p.asked("worker run --state-dir /nowhere 0123456789ab")
	if status := p.Wait(); status != 0 {
		t.Errorf("exit status %d, want the command's", status)
	}
	assertClean(t, p.read("inherited.run"))
}

// If the namespace is gone from its path, the node ends: an ephemeral node is logged out, the worker ends, and the supervisor executes the
// command that removes the rest. After that no process of ours keeps the namespace alive.
func TestNetnsVanishes(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		logout bool
		vanish func(*pit)
	}{
		{"ephemeral", []string{"--ephemeral"}, true, func(p *pit) { p.pod.Delete() }},
		{"persistent", nil, false, func(p *pit) { p.pod.Delete() }},
		{"another one at its path", []string{"--ephemeral"}, true, func(p *pit) {
			p.pod.Delete()
			Run(p.t, "ip", "netns", "add", p.pod.Name)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPit(t, test.args...)
			// The other end of the pod's veth is removed together with the namespace.
			p.host.IP("link", "add", "peer", "type", "veth", "peer", "name", "eth0", "netns", p.pod.Name)
			p.begin("start").starts(1)
			test.vanish(p)
			p.asked("worker reap --state-dir /nowhere 0123456789ab")
			if status := p.Wait(); status != 0 {
				t.Errorf("exit status %d, want the command's", status)
			}
			if got := strings.Contains(p.read("asked"), "worker logout --state-dir /nowhere 0123456789ab\n"); got != test.logout {
				t.Errorf("logged out: %v, want %v", got, test.logout)
			}
			assertClean(t, p.read("inherited.reap"))
			WaitUntil(t, "the namespace dies", func() bool { return exec.Command("ip", "-n", p.host.Name, "link", "show", "peer").Run() != nil })
		})
	}
}

// Calls of sync never overlap, and a failed call is repeated.
func TestSupervisorSyncs(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.write("failures", "1\n")
	p.script("say sync", "say sync", "say sync", "stay")
	p.begin("start")
	WaitUntil(t, "sync succeeds", func() bool { return strings.Contains(p.read("syncs"), "end") })
	assertClean(t, p.read("inherited.sync"))
	if strings.Contains(strings.ReplaceAll(p.read("syncs"), "begin\nend\n", ""), "begin\nbegin\nbegin") {
		t.Errorf("two at a time: %q", p.read("syncs"))
	}
	for _, word := range []string{"no such luck", "sync: exit status 1"} {
		if !p.Err.Has(word) {
			t.Errorf("%q is not in the log", word)
		}
	}
}

// When a worker reports new sockets, the supervisor gives them larger buffers than the worker's user may set, but only to internet UDP
// sockets, and only to a few of them.
func TestSupervisorWidensSockets(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	widened := func(n int) func() bool {
		return func() bool { return strings.Count(p.read("state/buffers"), " 14680064 14680064\n") == n }
	}
	p.script("open unixgram", "open tcp4", "open udp4", "open udp6", "say sockets", "stay")
	p.begin("start").starts(1)
	WaitUntil(t, "two sockets are wide", widened(2))
	if wide := regexp.MustCompile(`(?m)^(udp4|udp6) 14680064 14680064$`).FindAllString(p.read("state/buffers"), -1); len(wide) != 2 {
		t.Errorf("want udp4 and udp6 to be wide, have\n%s", p.read("state/buffers"))
	}
	p.script(append(slices.Repeat([]string{"open udp4"}, 20), "say sockets", "stay")...)
	p.killWorker()
	WaitUntil(t, "a few of the next one's are", widened(8))
}

// A worker that floods the supervisor with lines causes no call except sync and uses no memory, and the supervisor can still be stopped.
func TestFloodIsHarmless(t *testing.T) {
	t.Parallel()
	p := newPit(t, "--log", "/dev/null")
	p.script("flood")
	p.begin("start")
	WaitUntil(t, "two syncs have been done", func() bool { return strings.Count(p.read("syncs"), "end") >= 2 })
	if kib := anonymous(t, p.PID()); kib > 8000 {
		t.Errorf("it takes %d KiB", kib)
	}
	for line := range strings.Lines(p.read("asked")) {
		if !strings.HasPrefix(line, "worker sync ") {
			t.Errorf("asked %q", line)
		}
	}
	p.Signal(syscall.SIGTERM)
	if status := p.Wait(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// The log consists of one current file and one old file, both of limited size, without control characters for a terminal.
func TestLogIsRotated(t *testing.T) {
	t.Parallel()
	p := newPit(t)
	p.args = []string{"--log", p.file("log")}
	lines := []string{"log \x1b[31mred"}
	for range 300 {
		lines = append(lines, "log "+strings.Repeat("z", 8000))
	}
	p.script(append(lines, "log the end", "stay")...)
	p.begin("start")
	WaitUntil(t, "all is logged", func() bool { return strings.Contains(p.read("log"), "the end") })
	for _, name := range []string{"log", "log.1"} {
		status, err := os.Stat(p.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if status.Size() > 1<<20+1<<14 || status.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, %v", name, status.Size(), status.Mode())
		}
		if strings.Contains(p.read(name), "\x1b") {
			t.Errorf("%s has an escape", name)
		}
	}
}

// The worker inherits nothing from the supervisor: no root, group or capability, no way to regain them, no core file, no environment, and
// only the descriptors of the contract.
func TestBecomingTheWorker(t *testing.T) {
	t.Parallel()
	p := newPit(t).begin("start")
	p.starts(1)
	self := p.read("state/self")
	none := "0000000000000000"
	for _, want := range []string{
		fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", workerUID), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", workerUID),
		"Groups:\t \n", "NoNewPrivs:\t1\n", "CapInh:\t" + none, "CapPrm:\t" + none, "CapEff:\t" + none, "CapBnd:\t" + none, "CapAmb:\t" + none,
		"environment []\n",
		"descriptor 0 pipe:", "descriptor 1 pipe:", "descriptor 2 pipe:",
		"descriptor 3 /dev/net/tun\n", "descriptor 4 socket:", "descriptor 5 " + p.file("peers") + "\n",
	} {
		if !strings.Contains(self, want) {
			t.Errorf("want %q in\n%s", want, self)
		}
	}
	if !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(self) {
		t.Error("it may write core files")
	}
	if !regexp.MustCompile(`Max file size +16777216 +16777216 `).MatchString(self) {
		t.Error("it may write large files")
	}
	for _, extra := range regexp.MustCompile(`descriptor ([6-9]|1\d) (.*)`).FindAllString(self, -1) {
		if !strings.Contains(extra, "anon_inode:") && !strings.Contains(extra, "/sys/fs/cgroup/") { // Go's own: its poller, its quota
			t.Errorf("it inherited %s", extra)
		}
	}
}

// The worker's sockets are in the host's namespace or in the pod's, but commands of the artefact always run in the host's namespace.
func TestSupervisorUnderlay(t *testing.T) {
	for _, underlay := range []string{"host", "pod"} {
		t.Run(underlay, func(t *testing.T) {
			t.Parallel()
			var args []string
			if underlay == "pod" {
				args = append(args, "--underlay-pod")
			}
			p := newPit(t, args...)
			p.script("say sync")
			p.begin("start").starts(1)
			want := map[string]*Netns{"host": p.host, "pod": p.pod}[underlay]
			if line := fmt.Sprintf("netns net:[%d]\n", want.Inode()); !strings.Contains(p.read("state/self"), line) {
				t.Errorf("want %q in\n%s", line, p.read("state/self"))
			}
			line := fmt.Sprintf("net:[%d]\n", p.host.Inode())
			WaitUntil(t, "Python is asked in our namespace", func() bool { return strings.Contains(p.read("inherited.sync"), line) })
		})
	}
}

// Only the task that attends to an identity runs with the command line of --outside. Its output is in the log.
func TestSupervisorAttendsOutside(t *testing.T) {
	t.Parallel()
	p := newPit(t, "--attend", "--outside=/usr/bin/env", "--outside=WHERE=outside")
	p.script("say sync")
	p.begin("start")
	for task, want := range map[string]bool{"attend": true, "sync": false} {
		WaitUntil(t, task, func() bool { return strings.Contains(p.read("inherited."+task), "net:[") })
		if got := strings.Contains(p.read("inherited."+task), "WHERE=outside\n"); got != want {
			t.Errorf("%s outside: %v, want %v", task, got, want)
		}
	}
	WaitUntil(t, "its words are in the log", func() bool { return p.Err.Has("by the way\n") })
}

// The supervisor refuses to start a worker as root, or with invalid arguments.
func TestSupervisorRefuses(t *testing.T) {
	t.Parallel()
	program := Program(t, "supervisor")
	for _, argv := range [][]string{
		{"become", "0", "", "0", "/bin/true"}, {"become", "-1", "", "0", "/bin/true"}, {"become", "x", "", "0", "/bin/true"},
		{"become", "5", "", "x", "/bin/true"}, {"become", "5", "/proc/self/ns/net", "1", "/bin/true"}, {"become", "5", "", "0"}, {"become"},
		{}, {"--id", "x"}, {"--id", "x", "--self", "/bin/true", "--state-dir", "/", "--netns", "/", "--uid", "0", "--", "/bin/true"},
		{"--nonsense"},
	} {
		if out, err := exec.Command(program, argv...).CombinedOutput(); err == nil {
			t.Errorf("%q: succeeded: %s", argv, out)
		}
	}
}

// The supervisor is small on disk and in memory, and has few dependencies.
func TestSupervisorIsSmall(t *testing.T) {
	t.Parallel()
	status, err := os.Stat(Program(t, "supervisor"))
	if err != nil {
		t.Fatal(err)
	}
	if status.Size() > 2200000 {
		t.Errorf("%d bytes on disk", status.Size())
	}
	p := newPit(t).begin("start")
	p.starts(1)
	if kib := anonymous(t, p.PID()); kib > 1500 {
		t.Errorf("%d KiB of anonymous memory", kib)
	}
	for dep := range strings.Lines(Run(t, "go", "list", "-C="+workers, "-deps", "./cmd/supervisor")) {
		path := strings.TrimSpace(dep)
		first, _, _ := strings.Cut(path, "/")
		if strings.Contains(first, ".") && path != "golang.org/x/sys/unix" {
			t.Errorf("it imports %s", path)
		}
	}
}

// assertClean checks that a command of the artefact inherited only PATH in its environment (sh adds PWD), and none of the supervisor's
// descriptors.
func assertClean(t *testing.T, inherited string) {
	t.Helper()
	if inherited == "" {
		t.Error("it was not run")
	}
	for line := range strings.Lines(inherited) {
		name, _, isVariable := strings.Cut(strings.TrimSpace(line), "=")
		if isVariable && name != "PATH" && name != "PWD" && name != "OLDPWD" && name != "_" {
			t.Errorf("it inherited the variable %s", line)
		}
	}
	if n := strings.Count(inherited, "/dev/null\n"); n > 1 {
		t.Errorf("it inherited a descriptor that nobody gave it:\n%s", inherited)
	}
	for _, open := range []string{"/dev/net/tun", "local.sock", "peers", "socket:"} {
		if strings.Contains(inherited, open) {
			t.Errorf("it inherited %s in\n%s", open, inherited)
		}
	}
}

// anonymous returns the anonymous memory of a process in KiB.
func anonymous(t testing.TB, pid int) int {
	t.Helper()
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindStringSubmatch(readFile(t, fmt.Sprintf("/proc/%d/status", pid)))
	kib, _ := strconv.Atoi(m[1])
	return kib
}

// processesIn lists the processes whose working directory is dir.
func processesIn(t testing.TB, dir string) (left string) {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range all {
		if target, err := os.Readlink(link); err == nil && target == dir {
			left += link + " "
		}
	}
	return left
}
