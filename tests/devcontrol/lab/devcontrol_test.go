package lab

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// An ephemeral node that goes offline is deleted after the time-out; a node that is not ephemeral stays.
func TestEphemeralTimeout(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t, "--ephemeral-timeout", "1s")
	gone := newRig(t, host, control, "gone").begin("key " + mint(control, map[string]any{"ephemeral": true})).running()
	stays := newRig(t, host, control, "stays").begin(key).running()
	gone.Kill()
	stays.Kill()
	WaitUntil(t, "the ephemeral node is forgotten", func() bool { _, there := control.Node("gone"); return !there })
	if n, there := control.Node("stays"); !there || n.Online {
		t.Errorf("the other node: %+v", n)
	}
}

// A restart of the control plane keeps nodes and keys, and the address of a deleted node is not assigned again.
func TestControlPlaneRemembers(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a").begin(key).running()
	b := newRig(t, host, control, "b").begin(key).running()
	n, _ := control.Node("b")
	control.Call("DELETE", "/nodes/"+n.ID, nil, nil)
	b.Wait()
	before := a.addresses()
	control.Restart(func() {})
	c := newRig(t, host, control, "c").begin(key).running()
	WaitUntil(t, "a and c know each other", func() bool { return c.ping(before[0]) && c.ping(before[1]) })
	if now, _ := control.Node("c"); now.Addresses[0] == n.Addresses[0] {
		t.Errorf("the address of a node that was deleted was given to another one: %v", now.Addresses)
	}
}

// Nodes receive the name and the tags that the admin API changes.
func TestAdminChangesNodes(t *testing.T) {
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	n, _ := control.Node("web")
	control.Call("POST", "/nodes/"+n.ID+"/name", map[string]string{"name": "other"}, nil)
	control.Call("POST", "/nodes/"+n.ID+"/tags", map[string][]string{"tags": {"tag:x"}}, nil)
	WaitUntil(t, "the node knows", func() bool {
		return strings.Contains(r.netmap(), `"DNSName":"other.tailnet.test."`) && strings.Contains(r.netmap(), `"Tags":["tag:x"]`)
	})
}

// For its peers, a node that runs nowhere is like any other: they see it appear, go offline, come back, and be deleted.
func TestStrangers(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t)
	r := newRig(t, host, control, "web").begin(key).running()
	var stranger NodeInfo
	control.Call("POST", "/nodes", map[string]any{"hostname": "nas", "tags": []string{"tag:x"}}, &stranger)
	known := func(online bool) func() bool {
		return func() bool {
			var status struct {
				Peer map[string]struct {
					DNSName string
					Online  bool
				}
			}
			r.decode("status", &status)
			for _, peer := range status.Peer {
				return peer.DNSName == "nas.tailnet.test." && peer.Online == online
			}
			return false
		}
	}
	WaitUntil(t, "it is there", known(true))
	for _, online := range []bool{false, true} {
		control.Call("POST", "/nodes/"+stranger.ID+"/online", map[string]bool{"online": online}, nil)
		WaitUntil(t, fmt.Sprintf("online is %v", online), known(online))
	}
	control.Call("DELETE", "/nodes/"+stranger.ID, nil, nil)
	WaitUntil(t, "it is gone", func() bool { return !strings.Contains(r.netmap(), "nas.tailnet.test.") })
}

// Two nodes that cannot reach each other over UDP reach each other through the relay.
func TestRelay(t *testing.T) {
	t.Parallel()
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a", "--port", "41011").begin(key)
	b := newRig(t, host, control, "b", "--port", "41012").begin(key)
	// Both workers have the host's own address. The rule that looks up local addresses comes first, so it is moved behind the rules that
	// block the ports.
	for _, family := range []string{"-4", "-6"} {
		host.IP(family, "rule", "add", "pref", "100", "lookup", "local")
		host.IP(family, "rule", "del", "pref", "0")
		for _, port := range []string{"41011", "41012"} {
			host.IP(family, "rule", "add", "pref", "50", "ipproto", "udp", "dport", port, "prohibit")
		}
	}
	a.running()
	b.running()
	WaitUntil(t, "a reaches b", func() bool { return a.ping(b.addresses()[0]) })
	var status struct {
		Peer map[string]struct{ CurAddr, Relay string }
	}
	a.decode("status", &status)
	for _, peer := range status.Peer {
		if peer.CurAddr != "" || peer.Relay != "dev" {
			t.Errorf("want the relay, have %+v", peer)
		}
	}
}

// Inside a pod, MagicDNS resolves the names of nodes at its address.
func TestMagicDNS(t *testing.T) {
	host, control, key := tailnet(t)
	a := newRig(t, host, control, "a").begin(key).running()
	b := newRig(t, host, control, "b").begin(key).running()
	a.pod.IP("route", "replace", "100.100.100.100", "dev", "ts0")
	WaitUntil(t, "a resolves b", func() bool {
		return resolves(a, "b.tailnet.test", b.addresses()[0])
	})
}

// resolves reports whether 100.100.100.100 resolves a name when it is queried from inside the pod.
func resolves(r *rig, name, want string) bool {
	found := false
	r.pod.Do(func() error {
		c, err := net.Dial("udp", "100.100.100.100:53")
		if err != nil {
			return err
		}
		defer c.Close()
		found = askDNS(c, name, want)
		return nil
	})
	return found
}

// askDNS queries the IPv4 address of a name. It does not use Go's resolver, which would query from another namespace.
func askDNS(c net.Conn, name, want string) bool {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, _ := query.Pack()
	if _, err := c.Write(packed); err != nil {
		return false
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	answer := make([]byte, 512)
	n, err := c.Read(answer)
	var m dnsmessage.Message
	if err != nil || m.Unpack(answer[:n]) != nil || len(m.Answers) != 1 {
		return false
	}
	a, ok := m.Answers[0].Body.(*dnsmessage.AResource)
	return ok && netip.AddrFrom4(a.A).String() == want
}

// devcontrol rejects an address for the admin API that others can reach, and one for the control protocol that clients cannot reach.
func TestDevcontrolRefuses(t *testing.T) {
	for _, args := range [][]string{{"--admin", "0.0.0.0:0"}, {"--listen", "0.0.0.0:0"}, {"--admin", "nonsense"}} {
		p := Start(t, NewNetns(t).Inside(append([]string{Program(t, "devcontrol")}, args...)...))
		if status := p.Wait(); status != 1 {
			t.Errorf("%v: exit status %d, want 1", args, status)
		}
	}
}

// An invalid request to the admin API gets an error status.
func TestAdminErrors(t *testing.T) {
	_, control, _ := tailnet(t)
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"DELETE", "/nodes/77", "", http.StatusNotFound},
		{"DELETE", "/nodes/x", "", http.StatusBadRequest},
		{"POST", "/keys/x/expire", "", http.StatusNotFound},
		{"POST", "/keys", `{"tags":["x"]}`, http.StatusBadRequest},
		{"POST", "/keys", `{`, http.StatusBadRequest},
		{"GET", "/nonsense", "", http.StatusNotFound},
	} {
		request, err := http.NewRequest(test.method, "http://admin"+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := control.admin.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.status {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, response.StatusCode, test.status)
		}
	}
}
