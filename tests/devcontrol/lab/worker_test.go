package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const workerUID = 2000000007

// rig is a worker with everything that its supervisor would give it.
type rig struct {
	*Process
	t     testing.TB
	host  *Netns
	pod   *Netns // nil: without a TUN
	dir   string
	args  []string
	local *net.UnixListener
	peers *os.File
	stdin io.WriteCloser
}

// newRig prepares a worker, but does not start it.
func newRig(t testing.TB, host *Netns, control *Control, name string, args ...string) *rig {
	t.Helper()
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	r := &rig{t: t, host: host, pod: NewNetns(t), dir: state}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, workerUID, workerUID); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.local, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "local.sock"), Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if r.peers, err = os.OpenFile(filepath.Join(dir, "peers"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.local.Close(); r.peers.Close() })
	r.args = append([]string{"--hostname", name, "--control-url", control.URL, "--tun", "ts0"}, args...)
	return r
}

// begin starts the worker as its supervisor would, with that start line.
func (r *rig) begin(line string) *rig {
	r.t.Helper()
	local, err := r.local.File()
	if err != nil {
		r.t.Fatal(err)
	}
	defer local.Close()
	tun, err := os.Open("/dev/null")
	if r.pod != nil {
		tun = r.pod.TUN("ts0", workerUID)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer tun.Close()
	argv := append([]string{"setpriv", fmt.Sprintf("--reuid=%d", workerUID), fmt.Sprintf("--regid=%d", workerUID), "--clear-groups",
		"--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", Program(r.t, "worker")}, r.args...)
	cmd := r.host.Inside(argv...)
	cmd.Dir, cmd.Env = r.dir, []string{"PATH=/usr/bin:/bin", "TS_AUTHKEY=tskey-wrong",
		"TS_CONTROL_URL=http://127.0.0.1:1", "TSNET_FORCE_LOGIN=1", "GOMEMLIMIT=1MiB", "HTTPS_PROXY=http://127.0.0.1:1"}
	cmd.ExtraFiles = []*os.File{tun, local, r.peers}
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	r.Process = Start(r.t, cmd)
	fmt.Fprintln(r.stdin, line)
	return r
}

// running waits until the node is up, and gives the interface the node's addresses, as sync would.
func (r *rig) running() *rig {
	r.t.Helper()
	WaitUntil(r.t, "the worker is running", func() bool {
		if r.Exited() {
			r.t.Fatalf("the worker has ended with %d", r.Wait())
		}
		return r.Out.Has("running\n") && r.Out.Has("sync\n")
	})
	if r.pod != nil {
		for _, a := range r.addresses() {
			r.pod.IP("addr", "replace", a, "dev", "ts0", "nodad")
		}
		r.pod.IP("route", "replace", "100.64.0.0/10", "dev", "ts0")
		r.pod.IP("-6", "route", "replace", "fd7a:115c:a1e0::/48", "dev", "ts0")
	}
	return r
}

// api makes a LocalAPI request and returns the status and the body of the answer.
func (r *rig) api(method, path, body string) (int, string) {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.local.Addr().String())
		},
	}}
	request, err := http.NewRequest(method, "http://local-tailscaled.sock/localapi/v0/"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func (r *rig) addresses() []string {
	r.t.Helper()
	var status struct{ TailscaleIPs []string }
	r.decode("status?peers=false", &status)
	if len(status.TailscaleIPs) != 2 {
		r.t.Fatalf("want an IPv4 and an IPv6 address, have %v", status.TailscaleIPs)
	}
	return status.TailscaleIPs
}

func (r *rig) ping(address string) bool {
	return r.pod.Inside("ping", "-c", "1", "-W", "1", address).Run() == nil
}

// decode makes a LocalAPI GET and decodes the answer.
func (r *rig) decode(path string, v any) {
	r.t.Helper()
	status, text := r.api("GET", path, "")
	if status != http.StatusOK {
		r.t.Fatalf("GET %s: %d %s", path, status, text)
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
}

// tailnet returns a host, a control plane, and a start line with a reusable auth key.
func tailnet(t testing.TB, args ...string) (*Netns, *Control, string) {
	t.Helper()
	host := NewHost(t)
	control := NewControl(t, host, args...)
	_, key := control.Key(map[string]any{"reusable": true, "tags": []string{"tag:pod"}})
	return host, control, "key " + key
}

// Two workers of one host reach each other over IPv4 and IPv6, and have their key's tags and different names.
func TestNodesReachEachOther(t *testing.T) {
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "web").begin(key).running()
	b := newRig(t, host, control, "web").begin(key).running()
	for _, address := range b.addresses() {
		WaitUntil(t, "a reaches b at "+address, func() bool { return a.ping(address) })
	}
	if n, ok := control.Node("web-1"); !ok || !slices.Equal(n.Tags, []string{"tag:pod"}) || !n.Online {
		t.Errorf("want a second node web-1 with its key's tags, have %+v", control.Nodes())
	}
	if !strings.Contains(a.netmap(), `"DNSName":"web-1.tailnet.test."`) {
		t.Error("a does not know b's name")
	}
}

// Two workers of one host find a direct path besides the relay, because their sockets are not bound to an interface.
func TestNodesOfOneHostConnectDirectly(t *testing.T) {
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a").begin(key).running()
	b := newRig(t, host, control, "b").begin(key).running()
	WaitUntil(t, "a has a direct path to b", func() bool {
		a.ping(b.addresses()[0])
		var status struct {
			Peer map[string]struct{ CurAddr string }
		}
		a.decode("status", &status)
		for _, peer := range status.Peer {
			return peer.CurAddr != ""
		}
		return false
	})
}

// A worker runs with its own user ID, without capabilities, without a way to gain any, and without environment variables.
func TestWorkerHasNoPrivileges(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", r.PID()))
	none := "0000000000000000"
	for _, want := range []string{
		fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", workerUID), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", workerUID),
		"Groups:\t \n", "NoNewPrivs:\t1\n", "CapInh:\t" + none, "CapPrm:\t" + none, "CapEff:\t" + none, "CapBnd:\t" + none, "CapAmb:\t" + none,
	} {
		if !strings.Contains(status, want) {
			t.Errorf("want %q in\n%s", want, status)
		}
	}
	if environ := readFile(t, fmt.Sprintf("/proc/%d/environ", r.PID())); environ != "" {
		t.Errorf("it was started with an environment: %q", environ)
	}
}

// An auth key of an unknown format appears neither in the log nor in the state directory.
func TestKeyIsNowhere(t *testing.T) {
	host, control, _ := tailnet(t)
	const secret = "hskey-auth-abc-NobodyMayReadThis"
	r := newRig(t, host, control, "web", "--verbose").begin("key " + secret)
	if status := r.Wait(); status != 10 {
		t.Errorf("exit status %d, want 10", status)
	}
	if !r.Err.Has("invalid pre auth key") {
		t.Error("the log does not tell the reason")
	}
	const part = "NobodyMayReadThis"
	filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(readFile(t, path), part) {
			t.Errorf("the key is in %s", path)
		}
		return err
	})
	if r.Err.Has(part) || r.Out.Has(part) {
		t.Error("the key is in the log")
	}
}

// A start line that cannot lead to a node ends the worker with an exit status that tells what is missing.
func TestNodeCannotBegin(t *testing.T) {
	host, control, _ := tailnet(t)
	usedID, used := control.Key(nil)
	newRig(t, host, control, "first").begin("key " + used).running()
	expiredID, expired := control.Key(nil)
	control.Call("POST", "/keys/"+expiredID+"/expire", nil, nil)
	for _, test := range []struct {
		name, line, log string
		status          int
	}{
		{"no key", "start", "not registered", 10},
		{"used key " + usedID, "key " + used, "authkey already used", 10},
		{"expired key", "key " + expired, "authkey expired", 10},
		{"nonsense", "begin", "start line", 1},
		{"key with a space", "key a b", "start line", 1},
		{"endless line", "key " + strings.Repeat("a", 5000), "longer than", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, host, control, "other").begin(test.line)
			if status := r.Wait(); status != test.status || !r.Err.Has(test.log) {
				t.Errorf("exit status %d, want %d, and %q in the log", status, test.status, test.log)
			}
		})
	}
}

// After SIGKILL and a restart the node has the same address and port, contacts its active peers at once, and a TCP connection continues in
// both directions.
func TestRestartIsNotFelt(t *testing.T) {
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a", "--port", "41001").begin(key).running()
	b := newRig(t, host, control, "b", "--port", "41002").begin(key).running()
	before := a.addresses()
	WaitUntil(t, "a reaches b", func() bool { return a.ping(b.addresses()[0]) })
	listener := b.pod.Listen("tcp", net.JoinHostPort(b.addresses()[0], "80"))
	here, err := a.pod.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	WaitUntil(t, "a remembers b", func() bool { return a.remembers(b.addresses()[0]) })

	a.Kill()
	a.begin("start")
	for _, direction := range [][2]net.Conn{{there, here}, {here, there}} {
		if _, err := direction[0].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		direction[1].SetReadDeadline(time.Now().Add(Patience))
		if _, err := direction[1].Read(make([]byte, 1)); err != nil {
			t.Errorf("the connection does not go on: %v", err)
		}
	}
	a.running()
	if after := a.addresses(); !slices.Equal(before, after) {
		t.Errorf("addresses were %v, are %v", before, after)
	}
}

// After a restart without any traffic, the worker makes a handshake with each peer that was active.
func TestActivePeersAreGreeted(t *testing.T) {
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a", "--port", "41005").begin(key).running()
	b := newRig(t, host, control, "b", "--port", "41006").begin(key).running()
	WaitUntil(t, "a reaches b", func() bool { return a.ping(b.addresses()[0]) })
	WaitUntil(t, "a remembers b", func() bool { return a.remembers(b.addresses()[0]) })
	a.Kill()
	before := b.lastHandshake()
	a.begin("start").running()
	WaitUntil(t, "b saw a handshake", func() bool { return b.lastHandshake() != before })
}

// isDirect reports whether the node has a direct path to its only peer.
func (r *rig) isDirect() bool {
	r.t.Helper()
	var status struct {
		Peer map[string]struct{ CurAddr string }
	}
	r.decode("status", &status)
	for _, peer := range status.Peer {
		return peer.CurAddr != ""
	}
	return false
}

// lastHandshake returns the time of the last handshake with the node's only peer.
func (r *rig) lastHandshake() (last string) {
	r.t.Helper()
	var status struct {
		Peer map[string]struct{ LastHandshake string }
	}
	r.decode("status", &status)
	for _, peer := range status.Peer {
		last = peer.LastHandshake
	}
	return last
}

// Preferences and the serve configuration that were set through the LocalAPI apply again after a restart.
func TestSettingsSurviveRestart(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	if status, text := r.api("PATCH", "prefs", `{"AdvertiseRoutesSet":true,"AdvertiseRoutes":["10.9.0.0/16"],"ShieldsUpSet":true,"ShieldsUp":true,"RouteAllSet":true,"RouteAll":true,"ExitNodeAllowLANAccessSet":true,"ExitNodeAllowLANAccess":true,"CorpDNSSet":true,"CorpDNS":false}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := r.api("POST", "serve-config", `{"TCP":{"8080":{"TCPForward":"10.0.0.1:80"}}}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	WaitUntil(t, "the route reached the control plane", func() bool {
		n, _ := control.Node("web")
		return slices.Equal(n.Routes, []string{"10.9.0.0/16"})
	})
	for range 2 { // the second restart restores what the first one restored
		r.Kill()
		r.begin("start").running()
		_, prefs := r.api("GET", "prefs", "")
		for _, want := range []string{`"10.9.0.0/16"`, `"ShieldsUp":true`, `"RouteAll":true`, `"ExitNodeAllowLANAccess":true`, `"CorpDNS":false`, `"WantRunning":true`, `"Hostname":"web"`} {
			if !strings.Contains(strings.Join(strings.Fields(prefs), ""), want) {
				t.Errorf("want %s in %s", want, prefs)
			}
		}
		if _, serve := r.api("GET", "serve-config", ""); !strings.Contains(serve, "10.0.0.1:80") {
			t.Errorf("the serve configuration is gone: %s", serve)
		}
	}
}

// An ephemeral node that logs out, by command or through the LocalAPI, is deleted from the tailnet at once, and the worker exits with 0.
func TestLogout(t *testing.T) {
	host, control, _ := tailnet(t)
	watcher := newRig(t, host, control, "watcher").begin("key " + mint(control, nil)).running()
	for name, logout := range map[string]func(*rig){
		"by-command": func(r *rig) { fmt.Fprintln(r.stdin, "logout") },
		"by-localapi": func(r *rig) {
			if status, text := r.api("POST", "logout", ""); status != http.StatusNoContent {
				t.Errorf("%d %s", status, text)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, host, control, name, "--ephemeral").begin("key " + mint(control, map[string]any{"ephemeral": true})).running()
			WaitUntil(t, "a peer sees it", func() bool { return strings.Contains(watcher.netmap(), name) })
			logout(r)
			if status := r.Wait(); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if _, there := control.Node(name); there {
				t.Error("the node is still there")
			}
			WaitUntil(t, "the peer is told", func() bool { return !strings.Contains(watcher.netmap(), name) })
		})
	}
}

// The end of a worker is not a logout: an ephemeral node whose worker is told to end is the same node when it starts again.
func TestEndIsNoLogout(t *testing.T) {
	host, control, _ := tailnet(t)
	r := newRig(t, host, control, "web", "--ephemeral").begin("key " + mint(control, map[string]any{"ephemeral": true})).running()
	before, _ := control.Node("web")
	ends := []func(){func() { r.Signal(syscall.SIGTERM) }, func() { r.stdin.Close() }}
	for _, end := range ends {
		end()
		if status := r.Wait(); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		r.begin("start").running()
	}
	if after, ok := control.Node("web"); !ok || after.NodeKey != before.NodeKey {
		t.Errorf("the node was %+v, is %+v", before, after)
	}
}

// A worker without an interface can still log out an ephemeral node.
func TestLogoutWithoutTUN(t *testing.T) {
	host, control, _ := tailnet(t)
	r := newRig(t, host, control, "web", "--ephemeral").begin("key " + mint(control, map[string]any{"ephemeral": true})).running()
	r.Kill()
	r.pod = nil
	r.args = []string{"--hostname", "web", "--control-url", control.URL}
	r.begin("start")
	fmt.Fprintln(r.stdin, "logout")
	if status := r.Wait(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if _, there := control.Node("web"); there {
		t.Error("the node is still there")
	}
}

// If the node was deleted at the control plane, the worker exits with 11, both while it runs and at the next start; with a new key it is a
// new node.
func TestNodeIsDeleted(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	old, _ := control.Node("web")
	control.Call("DELETE", "/nodes/"+old.ID, nil, nil)
	if status := r.Wait(); status != 11 {
		t.Fatalf("exit status %d, want 11", status)
	}
	if status := r.begin("start").Wait(); status != 11 {
		t.Fatalf("exit status %d at the next start, want 11", status)
	}
	r.begin("new-" + key).running()
	if now, _ := control.Node("web"); now.NodeKey == "" || now.NodeKey == old.NodeKey {
		t.Errorf("the node was %+v, is %+v", old, now)
	}
}

// The worker reports "online" when the control plane has shown that it knows the node.
func TestNodeIsKnown(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	WaitUntil(t, "the worker says that it is known", func() bool { return r.Out.Has("online\n") })
}

// If the node's key has expired, the worker exits with 10; with another auth key it is the same node.
func TestNodeKeyExpires(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	old, _ := control.Node("web")
	control.Call("POST", "/nodes/"+old.ID+"/expire", nil, nil)
	if status := r.Wait(); status != 10 {
		t.Fatalf("exit status %d, want 10", status)
	}
	if status := r.begin("start").Wait(); status != 10 {
		t.Fatalf("exit status %d at the next start, want 10: the node is known", status)
	}
	r.begin(key).running()
	if now, _ := control.Node("web"); now.ID != old.ID || !slices.Equal(now.Addresses, old.Addresses) {
		t.Errorf("the node was %+v, is %+v", old, now)
	}
}

// If its interface is deleted, the worker exits with 12.
func TestInterfaceIsDeleted(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	r.pod.IP("link", "del", "ts0")
	if status := r.Wait(); status != 12 {
		t.Errorf("exit status %d, want 12", status)
	}
}

// If another process uses the UDP port, the worker exits with an error that names the port, and does not choose another one.
func TestPortIsBusy(t *testing.T) {
	host, control, key := tailnet(t)
	host.Do(func() error {
		c, err := net.ListenPacket("udp4", ":41003")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	r := newRig(t, host, control, "web", "--port", "41003").begin(key)
	if status := r.Wait(); status != 13 || !r.Err.Has("UDP port 41003 is in use") {
		t.Errorf("exit status %d, want 13", status)
	}
}

// The worker's UDP socket has the configured port.
func TestPortIsFixed(t *testing.T) {
	host, control, key := tailnet(t)
	newRig(t, host, control, "web", "--port", "41004").begin(key).running()
	var sockets string
	host.Do(func() (err error) {
		text, err := os.ReadFile("/proc/thread-self/net/udp")
		sockets = string(text)
		return err
	})
	if want := fmt.Sprintf("00000000:%04X ", 41004); !strings.Contains(sockets, want) {
		t.Errorf("want a socket at %s in\n%s", want, sockets)
	}
}

// A worker that starts while the control plane is down waits for it. A running worker's established traffic continues without the control
// plane.
func TestControlPlaneIsDown(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a").begin(key).running()
	b := newRig(t, host, control, "b").begin(key).running()
	late := newRig(t, host, control, "late")
	address := b.addresses()[0]
	WaitUntil(t, "a has a direct path to b", func() bool { return a.ping(address) && a.isDirect() })
	control.Restart(func() {
		late.begin(key)
		WaitUntil(t, "a reaches b without the control plane", func() bool { return a.ping(address) })
	})
	late.running()
	WaitUntil(t, "all are online again", func() bool {
		online := 0
		for _, n := range control.Nodes() {
			if n.Online {
				online++
			}
		}
		return online == 3
	})
	WaitUntil(t, "a reaches the late one", func() bool { return a.ping(late.addresses()[0]) })
}

// If its auth key expired while the control plane was down, the worker exits with 10, so that it gets a new key.
func TestKeyExpiresMeanwhile(t *testing.T) {
	t.Parallel()
	host, control, _ := tailnet(t)
	id, key := control.Key(nil)
	control.Call("POST", "/keys/"+id+"/expire", nil, nil)
	r := newRig(t, host, control, "web")
	control.Restart(func() { r.begin("key " + key) })
	if status := r.Wait(); status != 10 {
		t.Errorf("exit status %d, want 10", status)
	}
	r.begin("key " + mint(control, nil)).running()
}

// The worker requests a port mapping from the router only if the option is set.
func TestPortMapping(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want bool
	}{{[]string{"--port-mapping"}, true}, {nil, false}} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			host, control, key := tailnet(t)
			asked := make(chan string, 100)
			for _, port := range []string{"5351", "1900"} { // NAT-PMP and PCP, UPnP
				host.router.Do(func() error {
					c, err := net.ListenPacket("udp4", "10.77.0.254:"+port)
					if err != nil {
						return err
					}
					t.Cleanup(func() { c.Close() })
					go func() {
						for {
							if _, _, err := c.ReadFrom(make([]byte, 1500)); err != nil {
								return
							}
							asked <- port
						}
					}()
					return nil
				})
			}
			r := newRig(t, host, control, "web", test.args...).begin(key).running()
			WaitUntil(t, "the node knows its endpoints", func() bool {
				n, _ := control.Node("web")
				return len(n.Endpoints) > 0
			})
			if test.want {
				WaitUntil(t, "the router is asked", func() bool { return len(asked) > 0 })
			} else if len(asked) > 0 {
				t.Errorf("the router was asked at port %s", <-asked)
			}
			_ = r
		})
	}
}

// The worker requests no tags from the control plane, because Headscale rejects such requests.
func TestRequestsNoTags(t *testing.T) {
	host, control, key := tailnet(t) // like Headscale, devcontrol rejects any request for tags
	newRig(t, host, control, "web").begin(key).running()
	if control.Err.Has("requested tags") {
		t.Error("the worker requested tags")
	}
}

// The worker says sync when a route through its node changes; for a new peer it does so only with --peer-routes.
func TestSync(t *testing.T) {
	host, control, key := tailnet(t)
	quiet := newRig(t, host, control, "quiet").begin(key).running()
	eager := newRig(t, host, control, "eager", "--peer-routes").begin(key).running()
	quietBefore, eagerBefore := quiet.Out.Count("sync\n"), eager.Out.Count("sync\n")
	newRig(t, host, control, "other").begin(key).running()
	WaitUntil(t, "the eager one says sync for a new peer", func() bool { return eager.Out.Count("sync\n") > eagerBefore })
	WaitUntil(t, "the quiet one knows the new peer", func() bool { return strings.Contains(quiet.netmap(), "other.tailnet.test") })
	if quiet.Out.Count("sync\n") != quietBefore {
		t.Error("a new peer is no reason for sync")
	}
	quiet.api("PATCH", "prefs", `{"RouteAllSet":true,"RouteAll":true}`)
	WaitUntil(t, "it says sync for a changed preference", func() bool { return quiet.Out.Count("sync\n") > quietBefore })
}

// netmap returns the node's view of the tailnet as JSON without white space.
func (r *rig) netmap() string {
	r.t.Helper()
	_, text := r.api("GET", "status", "")
	return strings.Join(strings.Fields(text), "")
}

// remembers reports whether the node would contact an address after a restart.
func (r *rig) remembers(address string) bool {
	text := readFile(r.t, r.peers.Name())
	return strings.HasPrefix(text, "peers 1\n") && strings.Contains(text, "\n"+address+"\n")
}

func mint(c *Control, request map[string]any) string {
	c.t.Helper()
	_, key := c.Key(request)
	return key
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The worker ignores a new interface of a pod, but notices any other new interface.
func TestNeighboursWakeNobody(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web", "--verbose").begin(key).running()
	for i, name := range []string{"veth0", "cni0", "lan0"} {
		host.IP("link", "add", name, "type", "bridge")
		host.IP("addr", "add", fmt.Sprintf("10.78.%d.1/24", i), "dev", name)
		host.IP("link", "set", name, "up")
	}
	WaitUntil(t, "the worker sees lan0", func() bool { return r.Err.Has("lan0") })
	for _, name := range []string{"veth0", "cni0"} {
		if r.Err.Has(name) {
			t.Errorf("it saw %s", name)
		}
	}
}

// The worker returns the memory that a burst of traffic needed.
func TestMemoryComesBack(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a").begin(key).running()
	b := newRig(t, host, control, "b").begin(key).running()
	WaitUntil(t, "a has a direct path to b", func() bool { return a.ping(b.addresses()[0]) && a.isDirect() })
	before := anonymous(t, a.PID())
	listener := b.pod.Listen("tcp", net.JoinHostPort(b.addresses()[0], "80"))
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	var senders sync.WaitGroup
	for range 8 {
		c, err := a.pod.Dial(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		senders.Go(func() {
			defer c.Close()
			for chunk := make([]byte, 1<<20); ; {
				if _, err := c.Write(chunk); err != nil || anonymous(t, a.PID()) > before+3<<10 {
					return
				}
			}
		})
	}
	senders.Wait()
	peak := anonymous(t, a.PID())
	WaitUntil(t, "the worker is small again", func() bool { return anonymous(t, a.PID()) < before+2<<10 })
	t.Logf("%d KiB before, %d at the end of traffic, %d now", before, peak, anonymous(t, a.PID()))
}
