package tests

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
	"testing"
)

const workerUID = 2000000007

// rig is a worker with all that its supervisor would give it.
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

// newRig prepares a worker; it is not started yet.
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
	cmd.Dir, cmd.Env = r.dir, []string{"PATH=/usr/bin:/bin", "TS_AUTHKEY=tskey-wrong", "TS_CONTROL_URL=http://127.0.0.1:1"}
	cmd.ExtraFiles = []*os.File{tun, local, r.peers}
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	r.Process = Start(r.t, cmd)
	fmt.Fprintln(r.stdin, line)
	return r
}

// running waits until the node is up, and gives its interface the addresses that it got, as sync would.
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

// api makes a LocalAPI request and returns the answer's body.
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

func TestNodesReachEachOther(t *testing.T) {
	host := NewHost(t)
	control := NewControl(t, host)
	_, key := control.Key(map[string]any{"reusable": true, "tags": []string{"tag:pod"}})
	a := newRig(t, host, control, "web").begin("key " + key).running()
	b := newRig(t, host, control, "web").begin("key " + key).running()
	for _, address := range b.addresses() {
		WaitUntil(t, "a reaches b at "+address, func() bool { return a.ping(address) })
	}
	if n, ok := control.Node("web-1"); !ok || n.Tags[0] != "tag:pod" {
		t.Errorf("want a second node web-1 with its key's tags, have %+v", control.Nodes())
	}
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
